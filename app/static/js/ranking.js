// Rate and rank. The radio buttons of the form are the truth, and the form works without any of
// this; here its cards are first rated one by one, then ordered on a board.

import { keepAnswers } from "./answers.js";
import { makeBoard } from "./board.js";
import { makeCompare, textOf } from "./compare.js";
import { BUSY } from "./keys.js";
import * as order from "./order.js";
import { showRail } from "./rail.js";
import { makeRating } from "./rating.js";

const NARROW = window.matchMedia("(max-width: 50rem)");

export function improveRanking(form, { signal, announce }) {
  const cards = Object.fromEntries(
    [...form.querySelectorAll(".completion")].map((card) => [card.dataset.letter, card]),
  );
  const letters = Object.keys(cards);
  const rated = form.dataset.rated === "yes";
  const submit = form.querySelector("#send");
  const find = (selector) => form.querySelector(selector);
  let current = letters[0];
  let pinned = null;

  // What the form says now -------------------------------------------------------------------
  const answers = keepAnswers(form, { signal, changed });
  const numbers = (name) =>
    Object.fromEntries(letters.map((letter) => [letter, Number(answers.get(`${name}_${letter}`))]));
  const groups = () => order.groupsOf(numbers("tier"));
  const unplacedIn = (now) =>
    letters.filter((letter) => !now.some((group) => group.letters.includes(letter)));
  const step = () => form.dataset.step;
  const say = (letter) => `${letter} is ${order.placeInWords(groups(), letter)}.`;

  const suggested = () => {
    if (form.dataset.suggest !== "yes" || groups().length) return [];
    return order.groupsFromRatings(numbers("overall"));
  };

  function inWords(names, about) {
    if (!names[0].startsWith("tier_")) return rating.inWords(names[0]);
    if (about === null) return say(names[0].slice("tier_".length));
    return letters.includes(about) ? say(about) : about;
  }

  function changed(names, about) {
    show();
    announce(inWords(names, about));
  }

  // What is shown of it ----------------------------------------------------------------------
  const board = makeBoard(form, { cards, signal, dropped });
  const rating = rated && makeRating(form, { letters, cards, answers, announce, go, leave: rank });
  const compare = makeCompare(document.getElementById("compare"), { signal });

  function show() {
    const now = groups();
    const unplaced = unplacedIn(now);
    for (const letter of letters) {
      cards[letter].classList.toggle("current", letter === current);
      cards[letter].classList.toggle("pinned", letter === pinned);
      const where = unplaced.includes(letter) ? "" : order.placeInWords(now, letter);
      cards[letter].querySelector(".where").textContent = step() === "rank" ? where : "";
    }
    for (const place of form.querySelectorAll(".place")) {
      place.classList.toggle("current", place.dataset.of === current);
    }
    submit.disabled = unplaced.length > 0;
    for (const button of form.querySelectorAll('[data-do="undo"]')) {
      button.setAttribute("aria-disabled", String(!answers.canUndo()));
    }
    if (step() === "rate") {
      rating.show(current);
      return;
    }
    board.show(now, unplaced);
    showRail(find("#rail"), now, unplaced, current);
    find("#placed").textContent = `${letters.length - unplaced.length} of ${letters.length} placed`;
    find("#tools-of").textContent = current;
    find('[data-do="pin"]').setAttribute("aria-pressed", String(pinned === current));
    const able = {
      up: order.moved(now, current, -1),
      down: order.moved(now, current, 1),
      merge: order.merged(now, current),
      "take-back": !unplaced.includes(current),
    };
    for (const [name, can] of Object.entries(able)) {
      find(`[data-do="${name}"]`).setAttribute("aria-disabled", String(!can));
    }
    const idea = suggested();
    find("#suggestion").hidden = idea.length === 0;
    find("#suggested").textContent = order.orderInSigns(idea);
  }

  // What the person does ---------------------------------------------------------------------
  function select(letter) {
    if (letter === current) return;
    current = letter;
    show();
  }

  function go(letter) {
    select(letter);
    cards[letter].focus({ preventScroll: true });
    if (step() === "rank") cards[letter].scrollIntoView({ block: "nearest" });
    else if (form.getBoundingClientRect().top < 0) form.scrollIntoView();
  }

  function enter(name) {
    form.dataset.step = name;
    form.elements.step.value = name;
    if (name === "rate") rating.gather();
    else if (NARROW.matches) find(".prompt-fold").open = false; // a bar that opens
    show();
  }

  function change(name) {
    enter(name);
    form.dispatchEvent(new Event("input", { bubbles: true })); // the draft remembers the step
    go(current);
    form.scrollIntoView();
  }

  function rank() {
    current = unplacedIn(groups())[0] ?? current;
    change("rank");
    const idea = suggested();
    announce(`Rank.${idea.length ? ` Your ratings suggest ${order.orderInSigns(idea)}.` : ""}`);
  }

  function arrange(now, about) {
    const places = order.placesOf(now, letters);
    const values = letters.map((letter) => [`tier_${letter}`, String(places[letter] || "")]);
    answers.set(Object.fromEntries(values), about);
  }

  function dropped(letter, now) {
    current = letter;
    arrange(now, letter);
    show(); // also when it fell back where it was
    cards[letter].focus({ preventScroll: true });
  }

  function place(number) {
    if (number > letters.length) announce(`The places are 1 to ${letters.length}.`);
    else answers.set({ [`tier_${current}`]: String(number || "") }, current);
  }

  function move(by) {
    const next = order.moved(groups(), current, by);
    if (next) arrange(next, current);
    else announce(`${current} is ${by < 0 ? "first" : "last"} already.`);
    cards[current].scrollIntoView({ block: "nearest" });
  }

  function merge() {
    const next = order.merged(groups(), current);
    if (next) arrange(next, current);
    else announce(`There is nothing above ${current} to tie with.`);
  }

  function takeBack() {
    if (answers.get(`tier_${current}`)) place(0);
    else announce(`${current} has no place yet.`);
  }

  function pin() {
    if (pinned === current || pinned === null) {
      pinned = pinned === null ? current : null;
      const state = pinned ? "pinned. Pin another one to compare" : "not pinned";
      announce(`${current} is ${state}.`);
      show();
      return;
    }
    const now = groups();
    const pair = [pinned, current].map((letter) => {
      return { letter, where: order.placeInWords(now, letter), text: textOf(cards[letter]) };
    });
    pinned = null;
    show();
    compare(pair);
  }

  function useSuggested() {
    const idea = suggested();
    if (idea.length) arrange(idea, `The order is now ${order.orderInSigns(idea)}.`);
  }

  // Goes to where the change was, so that it is seen.
  function undo() {
    const names = answers.undo();
    if (!names.length) {
      announce("There is nothing to undo.");
      return;
    }
    const ranks = names.filter((name) => name.startsWith("tier_"));
    const letter = names[0].slice(-1);
    if (!ranks.length && letters.includes(letter)) current = letter;
    else if (ranks.length === 1) current = letter;
    const wanted = ranks.length ? "rank" : "rate";
    if (step() !== wanted) enter(wanted);
    else show();
    if (wanted === "rate") rating.focusOn(names[0]);
    announce(`Undone. ${inWords(names, ranks.length > 1 ? current : null)}`);
  }

  const commands = {
    up: () => move(-1),
    down: () => move(1),
    merge,
    "take-back": takeBack,
    pin,
    undo,
    suggested: useSuggested,
    "expand-all": () => board.expandAll(),
    step: () => (step() === "rate" ? rank() : change("rate")),
    previous: () => rating.turn(current, -1),
    next: () => rating.turn(current, 1),
  };

  const expand = () => board.expand(current);
  const keys = { "=": merge, X: expand, E: expand, P: pin, U: useSuggested };

  // Whether the key meant something.
  function act(event) {
    const key = event.key.length === 1 ? event.key.toUpperCase() : event.key;
    const plain = event.shiftKey ? "" : event.code; // digits of keyboards that shift them
    const digit = /^[0-9]$/.test(key) ? key : /^Digit([0-9])$/.exec(plain)?.[1];
    if (event.altKey) {
      if (step() !== "rank" || !["ArrowUp", "ArrowDown"].includes(key)) return false;
      move(key === "ArrowUp" ? -1 : 1);
    } else if (event.shiftKey && key !== "=" && !digit) {
      if (step() !== "rank" || key !== "E") return false;
      board.expandAll();
    } else if (letters.includes(key)) go(key);
    else if (key === "Z") undo();
    else if (key === "R" && rated) commands.step();
    else if (step() === "rate") return rating.key(digit ?? key, current, event.target);
    else if (key in keys) keys[key]();
    else if (digit > "0") place(Number(digit));
    else if (digit === "0" || key === "Backspace" || key === "Delete") takeBack();
    else return key === "Enter" && event.target.matches("input"); // no submit by chance
    return true;
  }

  document.addEventListener(
    "keydown",
    (event) => {
      if (event.ctrlKey || event.metaKey || board.dragging() || event.target.closest(BUSY)) return;
      if (act(event)) event.preventDefault();
    },
    { signal },
  );
  form.addEventListener(
    "click",
    (event) => {
      const { target } = event;
      const goTo = target.closest("[data-go]")?.dataset.go;
      const command = target.closest("[data-do]")?.dataset.do;
      if (goTo) go(goTo);
      else if (command) commands[command]();
      else if (target.matches(".expand, .expand *")) {
        board.expand(target.closest(".completion").dataset.letter);
      }
      // After a click on an answer the page's keys act again: arrows would change the answer.
      else if (target.matches('input[type="radio"]') && event.detail > 0) {
        (target.closest(".likert, .tri") ?? cards[current]).focus({ preventScroll: true });
      }
    },
    { signal },
  );
  form.addEventListener(
    "focusin",
    ({ target }) => {
      const letter = target.closest("[data-letter]")?.dataset.letter;
      if (letter && !board.dragging()) select(letter);
    },
    { signal },
  );
  form.addEventListener("restored", () => enter(startingStep()), { signal });

  function startingStep() {
    return rated && form.elements.step.value !== "rank" ? "rate" : "rank";
  }

  form.noValidate = true; // the button waits for every place; what is hidden cannot be pointed at
  find("#place-now").append(...form.querySelectorAll(".place"));
  for (const card of Object.values(cards)) card.tabIndex = 0;
  enter(startingStep());
}
