// What every page has: questions before irreversible posts, logs that keep to their end, copying.

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  await navigator.clipboard.writeText(source.value ?? source.textContent);
  button.textContent = "Copied";
});

// A log that was at its end stays there when HTMX brings a longer one.
const keepEnd = () => {
  for (const log of document.querySelectorAll("[data-keep-end]")) {
    if (log.dataset.away !== "yes") log.scrollTop = log.scrollHeight;
  }
};
document.addEventListener(
  "scroll",
  ({ target }) => {
    if (!target.dataset || !("keepEnd" in target.dataset)) return;
    const gap = target.scrollHeight - target.scrollTop - target.clientHeight;
    target.dataset.away = gap > 8 ? "yes" : "no";
  },
  true,
);
document.addEventListener("htmx:after:swap", keepEnd);
keepEnd();
