// Writing: words while they are written, and the text as it will be shown.

function countWords(text) {
  return text.match(/\S+/g)?.length ?? 0;
}

export function improveDemonstration(form, { signal }) {
  const textarea = form.elements.text;
  const output = form.querySelector("#word-count");

  const show = () => {
    const words = countWords(textarea.value);
    output.textContent = `${words.toLocaleString()} ${words === 1 ? "word" : "words"}`;
  };
  textarea.addEventListener("input", show, { signal });
  form.addEventListener("restored", show, { signal });
  show();

  // Beside the prompt the cursor is ready at once; below it, on a phone, the prompt comes first.
  const beside = window.matchMedia("(min-width: 50.01rem)").matches;
  if (beside && !document.querySelector('[role="alert"]')) textarea.focus();
}
