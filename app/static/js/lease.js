// The time left on a task. Counted from the server's answer, so a wrong clock does not matter.

import { signInAgain } from "./notice.js";

const ALIVE_SECONDS = 60;

export function showLease(element, { signal }) {
  let until = null;
  // The page of a correction has no lease, and says until when it can be made.
  if (element.dataset.lease === "none") return { renewed: () => {} };
  const show = () => {
    if (until === null) return;
    const minutes = Math.ceil((until - performance.now()) / 60_000);
    element.classList.toggle("soon", minutes <= 5);
    element.textContent =
      minutes > 0
        ? `${minutes} min left`
        : "Your time ran out; you can still submit unless somebody else did";
  };
  const renewed = (secondsLeft) => {
    until = performance.now() + (secondsLeft ?? 0) * 1000;
    show();
  };
  if (element.dataset.secondsLeft) renewed(Number(element.dataset.secondsLeft));
  const timer = setInterval(show, 10_000);
  signal.addEventListener("abort", () => clearInterval(timer));
  return { renewed };
}

// Somebody who reads and types nothing keeps the task too, at most one ping a minute.
export function keepLease(form, { signal, announce, activity, draft, renewed }) {
  const ping = async () => {
    if (!activity.active() || draft.secondsSinceSave() < ALIVE_SECONDS) return;
    try {
      const response = await fetch(`/assignments/${form.dataset.assignment}/alive`, {
        method: "POST",
        headers: { "Content-Type": "application/json", Accept: "application/json" },
        body: JSON.stringify({ active_seconds: form.elements.active_seconds.value }),
        signal,
      });
      if (response.status === 401) signInAgain(announce);
      if (response.ok) renewed((await response.json()).seconds_left);
    } catch {
      // No connection: the next ping, or the next change, tries again.
    }
  };
  const timer = setInterval(ping, ALIVE_SECONDS * 1000);
  signal.addEventListener("abort", () => clearInterval(timer));
}
