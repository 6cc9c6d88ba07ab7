// The order on one line, "B > A = D > C", and after it what has no place yet. Letters are buttons.

import { placeInWords } from "./order.js";

const text = (className, words) =>
  Object.assign(document.createElement("span"), { className, textContent: words });

export function showRail(rail, groups, unplaced, current) {
  const button = (letter) => {
    const made = document.createElement("button");
    made.type = "button";
    made.className = "letter-button";
    made.dataset.go = letter;
    made.textContent = letter;
    made.setAttribute("aria-label", `${letter}, ${placeInWords(groups, letter)}`);
    made.setAttribute("aria-current", String(letter === current));
    return made;
  };
  const ranked = groups.flatMap(({ letters }, at) => [
    ...(at ? [text("sign", ">")] : []),
    ...letters.flatMap((letter, index) => [...(index ? [text("sign", "=")] : []), button(letter)]),
  ]);
  const rest = unplaced.map(button);
  if (rest.length) rest.unshift(text("rest small muted", "not placed"));
  const focused = document.activeElement.closest("#rail [data-go]")?.dataset.go;
  rail.replaceChildren(...ranked, ...rest);
  if (focused) rail.querySelector(`[data-go="${focused}"]`).focus({ preventScroll: true });
  // Where the line is too long, it shows the current one; scrollIntoView would move the page too.
  const now = rail.querySelector('[aria-current="true"]');
  rail.scrollLeft = now.offsetLeft - rail.offsetLeft - (rail.clientWidth - now.offsetWidth) / 2;
}
