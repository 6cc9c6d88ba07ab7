// The time left on a task. Counted from the server's answer, so a wrong clock does not matter.

export function showLease(element, { signal }) {
  let until = null;
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
