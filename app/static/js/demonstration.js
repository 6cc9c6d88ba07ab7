// Writing: words while they are written, and the text as it will be shown.

export function improveDemonstration(form, { signal }) {
  const textarea = form.elements.text;
  const output = form.querySelector("#word-count");
  const preview = form.querySelector("#preview");
  const toggle = form.querySelector("#show-preview");

  const count = () => {
    const words = textarea.value.match(/\S+/g)?.length ?? 0;
    output.textContent = `${words.toLocaleString()} ${words === 1 ? "word" : "words"}`;
  };
  textarea.addEventListener("input", count, { signal });
  form.addEventListener("restored", count, { signal });
  count();

  const flip = () => {
    const shown = preview.hidden;
    // Stored without blank lines before and white space after, and shown so.
    preview.textContent = textarea.value.replace(/^\n+/, "").trimEnd() || "Nothing is written yet.";
    preview.hidden = !shown;
    textarea.hidden = shown;
    toggle.setAttribute("aria-pressed", String(shown));
    (shown ? preview : textarea).focus();
  };
  toggle.hidden = false;
  toggle.addEventListener("click", flip, { signal });
  document.addEventListener(
    "keydown",
    (event) => {
      if (!event.altKey || event.ctrlKey || event.metaKey || event.code !== "KeyP") return;
      event.preventDefault();
      flip();
    },
    { signal },
  );
  // A field that is hidden cannot be asked to be filled in.
  form.addEventListener("invalid", () => preview.hidden || flip(), { signal, capture: true });

  // Beside the prompt the cursor is ready at once; below it, on a phone, the prompt comes first.
  const beside = window.matchMedia("(min-width: 50.01rem)").matches;
  if (beside && !document.querySelector('[role="alert"]')) textarea.focus();
}
