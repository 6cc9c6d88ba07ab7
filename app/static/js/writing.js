// Writing a prompt: words while they are written, and pairs of a few-shot prompt that come and go.
//
// Without this script all pairs of the form are there. With it, as many are shown as are filled,
// two at least, and a pair that is removed moves the later ones up and can be brought back.

const FEWEST_PAIRS = 2;

export function improveWriting(form, { signal, announce }) {
  countWords(form, signal);
  const pairs = [...form.querySelectorAll(".shot")].map((element) => ({
    element,
    texts: [...element.querySelectorAll("textarea")],
    remove: element.querySelector("[data-remove]"),
  }));
  if (pairs.length) managePairs(form, pairs, signal, announce);
  const first = form.elements.prompt_text ?? form.elements.instruction;
  // Beside the advice the cursor is ready at once; below it, on a phone, the advice comes first.
  const beside = window.matchMedia("(min-width: 50.01rem)").matches;
  if (beside && !document.querySelector('[role="alert"]')) first.focus();
}

function countWords(form, signal) {
  const output = form.querySelector("#word-count");
  const show = () => {
    const texts = [...form.querySelectorAll("textarea")].map((area) => area.value);
    const words = texts.join("\n").match(/\S+/g)?.length ?? 0;
    output.textContent = `${words.toLocaleString()} ${words === 1 ? "word" : "words"}`;
  };
  form.addEventListener("input", show, { signal });
  form.addEventListener("restored", show, { signal });
  show();
}

function managePairs(form, pairs, signal, announce) {
  const tools = form.querySelector("#pair-tools");
  const add = tools.querySelector("[data-add]");
  const restore = tools.querySelector("[data-restore]");
  let count = 0;
  let removed = null;

  const filled = ({ texts }) => texts.some((area) => area.value.trim());
  const read = ({ texts }) => texts.map((area) => area.value);
  const write = ({ texts }, values) => texts.forEach((area, i) => (area.value = values[i]));

  const show = () => {
    pairs.forEach(({ element, remove }, i) => {
      element.hidden = i >= count;
      remove.hidden = count <= FEWEST_PAIRS;
    });
    add.disabled = count === pairs.length;
    restore.hidden = removed === null || count === pairs.length;
  };

  const begin = () => {
    const last = pairs.findLastIndex((pair) => filled(pair) || pair.element.querySelector(".has-error"));
    count = Math.max(FEWEST_PAIRS, count, last + 1);
    show();
  };

  const changed = () => form.dispatchEvent(new Event("input", { bubbles: true }));

  // Opens a place for one more pair at `place` and moves the later ones down.
  const insert = (place, values) => {
    for (let i = count; i > place; i -= 1) write(pairs[i], read(pairs[i - 1]));
    write(pairs[place], values);
    count += 1;
    show();
    pairs[place].texts[0].focus();
    changed();
  };

  const take = (place) => {
    removed = filled(pairs[place]) ? { place, values: read(pairs[place]) } : removed;
    for (let i = place; i < count - 1; i += 1) write(pairs[i], read(pairs[i + 1]));
    count -= 1;
    write(pairs[count], ["", ""]);
    show();
    pairs[Math.min(place, count - 1)].texts[0].focus();
    changed();
    announce(`Pair ${place + 1} removed; ${count} pairs are left`);
  };

  pairs.forEach(({ remove }, place) => remove.addEventListener("click", () => take(place), { signal }));
  add.addEventListener("click", () => insert(count, ["", ""]), { signal });
  restore.addEventListener(
    "click",
    () => {
      const { place, values } = removed;
      removed = null;
      insert(Math.min(place, count), values);
      announce(`Pair ${place + 1} is back`);
    },
    { signal },
  );
  form.addEventListener("restored", begin, { signal });
  tools.hidden = false;
  form.querySelector("#pairs-hint").hidden = true;
  begin();
}
