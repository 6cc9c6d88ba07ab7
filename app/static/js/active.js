// Seconds that somebody worked on the page: it was visible and was touched within the last minute.

const IDLE_AFTER_MS = 60_000;
const SIGNS = ["keydown", "pointerdown", "pointermove", "wheel", "scroll", "touchmove", "input"];

export function countActiveSeconds(input, { signal }) {
  let touched = performance.now();
  for (const kind of SIGNS) {
    const options = { passive: true, capture: true, signal }; // columns that scroll do not bubble
    document.addEventListener(kind, () => (touched = performance.now()), options);
  }
  const active = () => !document.hidden && performance.now() - touched <= IDLE_AFTER_MS;
  const timer = setInterval(() => {
    // Read anew each time: a draft that comes back brings its own count.
    if (active()) input.value = String((Number(input.value) || 0) + 1);
  }, 1000);
  signal.addEventListener("abort", () => clearInterval(timer));
  return { active };
}
