// Words and characters of a text while it is written.

export function countWords(textarea, output) {
  const show = () => {
    const words = textarea.value.match(/\S+/g)?.length ?? 0;
    output.textContent = `${words} ${words === 1 ? "word" : "words"}`;
  };
  textarea.addEventListener("input", show);
  show();
}
