// The page of an assignment: starts what its form needs, and again after the next one took its
// place. Each part listens under an AbortSignal, so that a swap leaves nothing of the last page.

import { countActiveSeconds } from "./active.js";
import { improveDemonstration } from "./demonstration.js";
import { keepDraft } from "./draft.js";
import { listenForKeys } from "./keys.js";
import { showLease } from "./lease.js";
import { improveRanking } from "./ranking.js";
import { improveWriting } from "./writing.js";

const KINDS = { demonstration: improveDemonstration, ranking: improveRanking, prompt: improveWriting };

let running = null;

// Says a sentence to a screen reader; the same sentence again is said again.
function announce(text) {
  const live = document.getElementById("live");
  live.textContent = "";
  setTimeout(() => (live.textContent = text), 50);
}

function start(root) {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  const form = root.querySelector("#label-form");
  if (!form) return;
  const lease = showLease(root.querySelector("#lease"), { signal });
  keepDraft(form, root.querySelector("#draft-state"), lease.renewed, { signal });
  countActiveSeconds(form.elements.active_seconds, { signal });
  KINDS[form.dataset.kind]?.(form, { signal, announce });
  listenForKeys(form, { signal });
  root.querySelector('[role="alert"]')?.focus();
}

start(document);
