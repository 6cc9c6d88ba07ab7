// Two completions side by side, scrolling together, and on demand what differs between them.

import { diffWords } from "./worddiff.js";

export function textOf(card) {
  const reading = card.querySelector(".reading");
  return reading.querySelector("em") ? "" : reading.textContent; // the only markup: "it is empty"
}

function pieces(parts, without, tag) {
  return parts
    .filter(({ kind }) => kind !== without)
    .map(({ kind, text }) => {
      if (kind === "same") return text;
      const element = document.createElement(tag);
      element.textContent = text;
      return element;
    });
}

export function makeCompare(dialog, { signal }) {
  const sides = ["left", "right"].map((side) => dialog.querySelector(`[data-side="${side}"]`));
  const panes = sides.map((side) => side.querySelector(".compare-text"));
  const toggle = dialog.querySelector('[data-do="diff"]');
  const key = dialog.querySelector("#compare-key");
  let shown = [];
  let differs = false;
  let parts = null;

  const show = () => {
    toggle.setAttribute("aria-pressed", String(differs));
    key.hidden = !differs;
    if (differs) {
      parts ??= diffWords(...shown.map(({ text }) => text));
      panes[0].replaceChildren(...pieces(parts, "added", "del"));
      panes[1].replaceChildren(...pieces(parts, "removed", "ins"));
    } else {
      panes.forEach((pane, at) => (pane.textContent = shown[at].text));
    }
    panes.forEach((pane, at) => {
      if (shown[at].text.trim()) return;
      const empty = document.createElement("em");
      empty.className = "muted";
      empty.textContent = "The completion is empty.";
      pane.replaceChildren(empty);
    });
  };

  const flip = () => {
    differs = !differs;
    show();
  };

  // The pane that follows answers with a scroll event of its own, which must lead nobody.
  let following = null;
  panes.forEach((pane, at) => {
    const other = panes[1 - at];
    pane.addEventListener(
      "scroll",
      () => {
        if (following === pane) {
          following = null;
          return;
        }
        const way = pane.scrollHeight - pane.clientHeight;
        const before = other.scrollTop;
        other.scrollTop = way && (pane.scrollTop / way) * (other.scrollHeight - other.clientHeight);
        if (other.scrollTop !== before) following = other;
      },
      { signal },
    );
  });

  dialog.addEventListener(
    "click",
    (event) => {
      const command = event.target.closest("[data-do]")?.dataset.do;
      if (command === "diff") flip();
      else if (command === "close" || event.target === dialog) dialog.close();
    },
    { signal },
  );
  dialog.addEventListener(
    "keydown",
    (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.key.toUpperCase() !== "D") return;
      event.preventDefault();
      flip();
    },
    { signal },
  );

  // `pair`: two of { letter, where, text }.
  return function open(pair) {
    shown = pair;
    parts = null;
    differs = false;
    following = null;
    sides.forEach((side, at) => {
      side.querySelector(".letter").textContent = pair[at].letter;
      side.querySelector(".where").textContent = pair[at].where;
      key.querySelector(`.${side.dataset.side}`).textContent = pair[at].letter;
    });
    show();
    dialog.showModal(); // it gives the focus back when it closes
    for (const pane of panes) pane.scrollTop = 0;
    panes[0].focus();
  };
}
