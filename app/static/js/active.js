// Seconds that somebody worked on the page: it was visible and was touched within the last minute.

const IDLE_AFTER_MS = 60_000;

export function countActiveSeconds(input) {
  let touched = performance.now();
  for (const kind of ["keydown", "pointerdown", "pointermove", "scroll"]) {
    document.addEventListener(kind, () => (touched = performance.now()), { passive: true });
  }
  let seconds = Number(input.value) || 0;
  setInterval(() => {
    if (document.hidden || performance.now() - touched > IDLE_AFTER_MS) return;
    seconds += 1;
    input.value = String(seconds);
  }, 1000);
}
