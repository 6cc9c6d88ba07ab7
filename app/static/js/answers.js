// The answers of a form of radio buttons: read, set by key or by hand, and taken back one by one.
//
// `changed(names, about)` is called after each change but undo; `about` is what `set` was told.

export function keepAnswers(form, { signal, changed }) {
  const names = [...new Set([...form.querySelectorAll('input[type="radio"]')].map((r) => r.name))];
  const read = () => Object.fromEntries(names.map((name) => [name, form.elements[name].value]));
  let last = read();
  let reason = null;
  let past = [];

  const write = (values) => {
    for (const [name, value] of Object.entries(values)) {
      for (const radio of form.elements[name]) radio.checked = radio.value === value;
    }
  };
  const differing = (before, after) => names.filter((name) => before[name] !== after[name]);
  // As a click would say it: whoever keeps drafts hears it too.
  const tell = () => form.dispatchEvent(new Event("input", { bubbles: true }));

  form.addEventListener(
    "input",
    () => {
      const now = read();
      const which = differing(last, now);
      const about = reason;
      reason = null;
      if (!which.length) return;
      past.push(last);
      last = now;
      changed(which, about);
    },
    { signal },
  );
  form.addEventListener(
    "restored",
    () => {
      past = [];
      last = read();
    },
    { signal },
  );

  return {
    get: (name) => last[name] ?? "",

    // Several answers are one change: they are taken back together.
    set(values, about = null) {
      write(values);
      reason = about;
      tell();
    },

    // Names of what the last change had answered; empty when nothing is left to take back.
    undo() {
      const before = past.pop();
      if (!before) return [];
      const which = differing(before, last);
      write(before);
      last = before;
      tell();
      return which;
    },

    canUndo: () => past.length > 0,
  };
}
