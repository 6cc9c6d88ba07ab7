// Ranking by keyboard, the order as it stands, and a submit button that waits for every place.
// The form works without any of it: the places are radio buttons.

export function improveRanking(form) {
  const letters = [...form.querySelectorAll(".place")].map((place) => place.dataset.letter);
  const order = form.querySelector("#order");
  const placed = form.querySelector("#placed");
  const submit = form.querySelector("#send");
  let current = null;

  const tierOf = (letter) => Number(form.elements[`tier_${letter}`].value) || 0;

  const groups = () => {
    const byTier = new Map();
    for (const letter of letters) {
      const tier = tierOf(letter);
      if (tier) byTier.set(tier, [...(byTier.get(tier) ?? []), letter]);
    }
    return [...byTier.entries()].sort(([a], [b]) => a - b).map(([, group]) => group);
  };

  const show = () => {
    const rows = groups().map((group, index) => {
      const row = document.createElement("li");
      const number = document.createElement("span");
      number.className = "rank-number";
      number.textContent = index + 1;
      row.append(number);
      group.forEach((letter, position) => {
        if (position) row.append(Object.assign(document.createElement("span"), { className: "tie", textContent: "=" }));
        row.append(
          Object.assign(document.createElement("a"), {
            className: "letter",
            href: `#completion-${letter}`,
            textContent: letter,
          }),
        );
      });
      return row;
    });
    order.replaceChildren(...rows);
    order.parentElement.hidden = rows.length === 0;
    const count = letters.filter(tierOf).length;
    placed.textContent = `${count} of ${letters.length} placed`;
    submit.disabled = count < letters.length;
  };

  const select = (letter) => {
    current = letter;
    for (const element of form.querySelectorAll("[data-letter]")) {
      element.classList.toggle("current", element.dataset.letter === letter);
    }
  };

  const go = (letter) => {
    const card = document.getElementById(`completion-${letter}`);
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
    select(letter);
  };

  // Radio buttons that are set by hand say so, as a click would.
  const set = (name, value) => {
    const radio = [...form.querySelectorAll(`input[name="${name}"]`)].find((input) => input.value === value);
    if (!radio) return;
    radio.checked = true;
    radio.dispatchEvent(new Event("input", { bubbles: true }));
  };

  const takeBack = (letter) => {
    const chosen = form.querySelector(`input[name="tier_${letter}"]:checked`);
    if (!chosen) return;
    chosen.checked = false;
    chosen.dispatchEvent(new Event("input", { bubbles: true }));
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("textarea, select, .menu, .drawer")) return;
    const letter = event.key.toUpperCase();
    const digit = /^Digit([0-9])$|^Numpad([0-9])$/.exec(event.code);
    if (letters.includes(letter)) {
      go(letter);
    } else if (current && digit && event.shiftKey) {
      set(`overall_${current}`, digit[1] ?? digit[2]);
    } else if (current && /^[1-9]$/.test(event.key)) {
      set(`tier_${current}`, event.key);
    } else if (current && ["0", "Backspace", "Delete"].includes(event.key)) {
      takeBack(current);
    } else {
      return;
    }
    event.preventDefault();
  });

  form.addEventListener("focusin", (event) => {
    const letter = event.target.closest("[data-letter]")?.dataset.letter;
    if (letter) select(letter);
  });
  form.addEventListener("input", show);
  form.addEventListener("restored", show);
  show();
}
