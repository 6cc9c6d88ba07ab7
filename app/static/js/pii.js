// The queue of held prompts by keyboard: J and K move, R, C and D decide about the prompt that has
// the focus (the first one, if none has), Z undoes the last decision.

import { BUSY } from "./keys.js";

const held = [...document.querySelectorAll("[data-held]")];
const current = () => held.findIndex((article) => article.contains(document.activeElement));

const focus = (place) => {
  const article = held[Math.max(0, Math.min(place, held.length - 1))];
  if (!article) return;
  article.focus({ preventScroll: true });
  article.scrollIntoView({ block: "start" });
};

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest(BUSY)) return;
  const key = event.key.toLowerCase();
  if (key === "j" || key === "k") focus(current() + (key === "j" ? 1 : -1));
  else if (key === "z") document.querySelector("[data-undo] button")?.click();
  else if ("rcd".includes(key)) held[Math.max(0, current())]?.querySelector(`[data-key="${key}"]`)?.click();
  else return;
  event.preventDefault();
});

// After a decision the next prompt has the focus, so that the keys go on where they were.
if (location.search.startsWith("?done=")) focus(0);
