// The page of an assignment: starts what its form needs, and again after the next one took its
// place. Each part listens under an AbortSignal, so that a swap leaves nothing of the last page.

import { countActiveSeconds } from "./active.js";
import { improveDemonstration } from "./demonstration.js";
import { keepDraft } from "./draft.js";
import { sendFlags } from "./flag.js";
import { listenForKeys } from "./keys.js";
import { keepLease, showLease } from "./lease.js";
import { goOn } from "./next.js";
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
  const tools = { signal, announce };
  const { renewed } = showLease(root.querySelector("#lease"), tools);
  // The form is improved first, so that it hears of a draft that comes back.
  KINDS[form.dataset.kind]?.(form, tools);
  const draft = keepDraft(form, root.querySelector("#draft-state"), renewed, tools);
  const activity = countActiveSeconds(form.elements.active_seconds, tools);
  if (!form.elements.correction) keepLease(form, { ...tools, activity, draft, renewed });
  goOn(form, { ...tools, draft, replace: start });
  sendFlags(root.querySelector("#flag-form"), tools);
  listenForKeys(form, tools);
  root.querySelector('[role="alert"]')?.focus();
}

start(document);
