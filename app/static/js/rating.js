// The first step: one completion at a time, its overall quality and the questions about it, and
// beside it the questions about the prompt. A question is current when it has the focus.

const QUESTION = ".likert, .tri";

export function makeRating(form, { letters, cards, answers, announce, go, leave }) {
  const about = form.querySelector(".workbench-prompt");
  const whole = form.querySelector("#cards");

  for (const question of form.querySelectorAll(QUESTION)) question.tabIndex = -1;

  const legend = (question) => question.querySelector("legend").textContent.trim();
  const nameOf = (question) => question.querySelector("input").name;

  const focused = (current) => {
    const question = document.activeElement.closest(QUESTION);
    return about.contains(question) || cards[current].contains(question) ? question : null;
  };

  // Some questions are asked only once a yes about the prompt has raised them (board.css).
  const raisedBy = (name) => [...form.querySelectorAll(`[data-raises="${name}"]`)];
  const isAsked = ({ dataset: { onlyIf } }) =>
    !onlyIf || raisedBy(onlyIf).some((question) => answers.get(nameOf(question)) === "yes");

  const questionsNear = (current) => {
    const place = about.contains(document.activeElement) ? about : cards[current];
    return [...place.querySelectorAll(QUESTION)].filter((one) => one.checkVisibility());
  };

  const step = (current, by) => {
    const all = questionsNear(current);
    const at = Math.max(0, all.indexOf(focused(current)));
    all[Math.max(0, Math.min(all.length - 1, at + by))].focus();
  };

  const answer = (current, value) => {
    const question = focused(current);
    if (!question?.matches(".tri")) {
      announce("Go to a question first: J.");
      return;
    }
    answers.set({ [nameOf(question)]: value });
    step(current, 1);
  };

  const isRated = (letter) =>
    [...cards[letter].querySelectorAll(QUESTION)].some(
      (one) => isAsked(one) && answers.get(nameOf(one)),
    );

  return {
    // Puts the cards back from the board, in the order of their letters.
    gather() {
      for (const letter of letters) whole.append(cards[letter]);
      for (const details of whole.querySelectorAll("details")) details.open = true;
    },

    show(current) {
      for (const button of form.querySelectorAll(".letters > [data-go]")) {
        const letter = button.dataset.go;
        const overall = answers.get(`overall_${letter}`);
        const partly = isRated(letter) ? "rated in part" : "not rated";
        const state = overall ? `rated ${overall}` : partly;
        button.classList.toggle("done", isRated(letter));
        button.setAttribute("aria-current", String(letter === current));
        button.setAttribute("aria-label", `${letter}, ${state}`);
      }
    },

    // After the last completion comes the next step.
    turn(current, by) {
      const next = letters[letters.indexOf(current) + by];
      if (next) go(next);
      else if (by > 0) leave();
    },

    // First what decides about other questions, where there is any; again, and the rest opens.
    askAboutPrompt() {
      const first = about.querySelector("#first-questions");
      const rest = about.querySelector("#about-prompt");
      const where = first && !first.contains(document.activeElement) ? first : rest;
      if (where === rest) rest.open = true;
      where.querySelector(QUESTION).focus();
    },

    // "B: overall quality 5", "Prompt: Is ambiguous: not answered"
    inWords(name) {
      const question = form.querySelector(`input[name="${name}"]`).closest(QUESTION);
      const whose = question.closest("[data-letter]")?.dataset.letter ?? "Prompt";
      const { raises } = question.dataset;
      const raised = answers.get(name) === "yes" && form.querySelector(`[data-only-if="${raises}"]`);
      const more = raised ? ` Now asked of each completion: ${legend(raised)}.` : "";
      return `${whose}, ${legend(question)}: ${answers.get(name) || "not answered"}.${more}`;
    },

    focusOn(name) {
      form.querySelector(`input[name="${name}"]`).closest(QUESTION).focus();
    },

    // Whether the key meant something here.
    key(key, current, target) {
      const onRadio = target.matches('input[type="radio"]');
      if (/^[1-7]$/.test(key)) answers.set({ [`overall_${current}`]: key });
      else if (key === "J") step(current, 1);
      else if (key === "K") step(current, -1);
      else if (key === "Y") answer(current, "yes");
      else if (key === "N") answer(current, "no");
      else if (key === "Q") this.askAboutPrompt();
      else if (["0", "Backspace", "Delete"].includes(key)) {
        const question = focused(current) ?? cards[current].querySelector(".likert");
        answers.set({ [nameOf(question)]: "" });
      } else if (key === "Enter" && !target.closest("button, a, summary")) this.turn(current, 1);
      else if (onRadio) return false; // arrows choose among radio buttons, as everywhere
      else if (key === "ArrowDown") step(current, 1);
      else if (key === "ArrowUp") step(current, -1);
      else if (key === "ArrowRight") this.turn(current, 1);
      else if (key === "ArrowLeft") this.turn(current, -1);
      else return false;
      return true;
    },
  };
}
