// The assignment page: what both kinds of task share, then the one that is on the page.

import { countActiveSeconds } from "./active.js";
import { keepDraft } from "./draft.js";
import { showLease } from "./lease.js";
import { countWords } from "./demonstration.js";
import { improveRanking } from "./ranking.js";

const form = document.getElementById("label-form");

if (form) {
  const lease = showLease(document.getElementById("lease"));
  keepDraft(form, document.getElementById("draft-state"), lease.renewed);
  countActiveSeconds(form.elements.active_seconds);
  if (form.dataset.kind === "demonstration") {
    countWords(form.elements.text, document.getElementById("word-count"));
    // Beside the prompt the cursor is ready at once; below it, on a phone, the prompt comes first.
    const beside = window.matchMedia("(min-width: 50.01rem)").matches;
    if (beside && !document.querySelector('[role="alert"]')) form.elements.text.focus();
  } else {
    improveRanking(form);
  }

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    const submit = form.querySelector('button[type="submit"]');
    if (!submit.disabled) form.requestSubmit(submit);
  });
  document.querySelector('[role="alert"]')?.focus();
}
