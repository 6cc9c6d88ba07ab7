// The board: a tray of what has no place yet, then the groups, best first, with a gap before,
// between and after them. Cards are dragged by their handle: onto a group to tie, into a gap to be
// a group of its own, into the tray to be taken back. The form's radio buttons stay the truth.

import "../vendor/Sortable.min.js";

const { Sortable } = globalThis;
const STILL = window.matchMedia("(prefers-reduced-motion: reduce)");

// Runs `change`, which may move what has the focus, and gives the focus back to it.
function keepingFocus(change) {
  const focused = document.activeElement;
  change();
  if (focused === document.activeElement || !focused.isConnected) return;
  focused.focus({ preventScroll: true });
}

function put(parent, node, at) {
  const before = parent.children[at] ?? null;
  if (before === node) return;
  // moveBefore keeps focus and scroll position, where there is one.
  if (parent.moveBefore && node.isConnected) parent.moveBefore(node, before);
  else parent.insertBefore(node, before);
}

export function makeBoard(form, { cards, signal, dropped }) {
  const tray = form.querySelector("#tray");
  const list = form.querySelector("#groups");
  const expanded = new Set();
  let dragging = false;

  const cardsIn = (lane) => [...lane.querySelectorAll(".completion")].map((c) => c.dataset.letter);

  const read = () =>
    [...list.children]
      .map((lane) => ({ place: Number(lane.dataset.place ?? 0), letters: cardsIn(lane) }))
      .filter(({ letters }) => letters.length);

  // While a card is on its way nothing may move away under the pointer.
  const freeze = (on) => {
    for (const lane of [tray, ...list.querySelectorAll(".group-cards")]) {
      lane.style.minHeight = on ? `${lane.offsetHeight}px` : "";
    }
  };

  const acceptDrops = (lane) => {
    const sortable = Sortable.create(lane, {
      group: "board",
      draggable: ".completion",
      handle: ".handle",
      sort: false, // within a group there is no order
      forceFallback: true, // the same for mouse and touch
      fallbackOnBody: true, // a copy within the form would share its radio buttons
      fallbackTolerance: 4,
      emptyInsertThreshold: 12,
      animation: STILL.matches ? 0 : 120,
      ghostClass: "landing",
      dragClass: "dragged",
      onStart() {
        dragging = true;
        freeze(true);
        form.classList.add("dragging");
      },
      onEnd({ item }) {
        dragging = false;
        freeze(false);
        form.classList.remove("dragging");
        dropped(item.dataset.letter, read());
      },
    });
    signal.addEventListener("abort", () => sortable.destroy());
    return lane;
  };

  const make = (tag, className, ...children) => {
    const element = document.createElement(tag);
    element.className = className;
    element.append(...children);
    return element;
  };
  const makeGap = () => acceptDrops(make("div", "gap"));
  const makeGroup = () => {
    const lane = acceptDrops(make("div", "group-cards"));
    const group = make("div", "group", make("span", "group-number"), lane);
    group.role = "group";
    return group;
  };

  acceptDrops(tray);
  list.append(makeGap());

  const lanes = () => [...list.querySelectorAll(".group")];

  // A card that is cut off can be shown whole; one that fits has nothing to expand.
  const fit = () => {
    for (const [letter, card] of Object.entries(cards)) {
      const text = card.querySelector(".reading");
      const open = expanded.has(letter);
      const button = card.querySelector(".expand");
      card.classList.toggle("expanded", open);
      const cut = !open && text.scrollHeight > text.clientHeight + 1;
      card.classList.toggle("cut", cut);
      button.hidden = !open && !cut;
      button.setAttribute("aria-expanded", String(open));
      button.firstElementChild.textContent = open ? "Show less" : "Show all";
    }
    const all = form.querySelector('[data-do="expand-all"] > span');
    all.textContent = expanded.size ? "Show less of each" : "Show all of each";
  };
  const observer = new ResizeObserver(fit);
  observer.observe(tray);
  observer.observe(list);
  signal.addEventListener("abort", () => observer.disconnect());

  return {
    dragging: () => dragging,

    show(groups, unplaced) {
      keepingFocus(() => {
        while (lanes().length < groups.length) list.append(makeGroup(), makeGap());
        groups.forEach(({ place, letters }, at) => {
          const group = lanes()[at];
          group.dataset.place = place;
          group.setAttribute("aria-label", `Place ${place}`);
          group.firstElementChild.textContent = place;
          letters.forEach((letter, index) => put(group.lastElementChild, cards[letter], index));
        });
        unplaced.forEach((letter, index) => put(tray, cards[letter], index));
        for (const extra of lanes().slice(groups.length)) {
          extra.nextElementSibling.remove();
          extra.remove();
        }
      });
      tray.parentElement.classList.toggle("empty", unplaced.length === 0);
      fit();
    },

    expand(letter) {
      if (expanded.has(letter)) expanded.delete(letter);
      else if (cards[letter].classList.contains("cut")) expanded.add(letter);
      fit();
    },

    expandAll() {
      if (expanded.size) expanded.clear();
      else for (const letter of Object.keys(cards)) expanded.add(letter);
      fit();
    },
  };
}
