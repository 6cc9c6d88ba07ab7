// Drafts: in this browser at once, on the server within two seconds of the last change.
//
// Each save says which server draft it grew from (`base`). The server refuses it when it has a newer
// one from another tab or browser, and the person chooses: nothing is overwritten in silence. All
// times that are compared are the server's.

import { copiesOf, fieldsOf, givenFields, restore, sameFields } from "./copies.js";
import { hideNotice, showNotice, signInAgain } from "./notice.js";

const PAUSE_MS = 1000;
const LONGEST_MS = 5000; // while somebody types without a pause
const RETRY_MS = 5000;
const RECENT = 3; // sent drafts that are remembered
const KEEPALIVE_CHARACTERS = 20_000; // browsers limit what outlives a page to 64 KiB

const clock = (moment) => moment.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

export function keepDraft(form, status, renewed, { signal, announce }) {
  const address = `/assignments/${form.dataset.assignment}/draft`;
  const copies = copiesOf(form.dataset.assignment);
  let base = form.dataset.savedAt;
  let timer = null;
  let changes = 0;
  let unsavedSince = null;
  let recent = []; // what was sent last: the server may have it though no answer came
  let other = null; // the other version, while the person has not chosen
  let busy = false;
  let stopped = false;
  let lastSaved = performance.now();

  const keepHere = (more) => copies.write({ base, fields: fieldsOf(form), other, recent, ...more });
  const same = (one, two) => sameFields(form, one, two);

  const plan = (wait) => {
    clearTimeout(timer);
    timer = stopped ? null : setTimeout(save, wait);
  };

  const changed = () => {
    changes += 1;
    unsavedSince ??= performance.now();
    keepHere({ synced: false });
    const longest = Math.max(0, unsavedSince + LONGEST_MS - performance.now());
    plan(Math.min(PAUSE_MS, longest));
  };

  // `there` is what is not on the screen. Until one is chosen nothing is sent.
  const offer = (there, savedAt) => {
    other = there;
    base = savedAt;
    keepHere({ synced: false });
    status.textContent = "Not saved: choose which version to keep";
    const choose = (fields) => {
      other = null;
      hideNotice();
      if (fields) restore(form, fields);
      changed();
      save();
    };
    showNotice(
      announce,
      "This was also changed in another tab or browser. Which version do you want?",
      [
        { label: "Use the other", act: () => choose(there) },
        { label: "Keep mine", act: () => choose(null) },
      ],
      { tone: "warn" },
    );
  };

  const refused = async (response) => {
    if (response.status === 401) {
      status.textContent = "Not saved: you are signed out. Kept in this browser";
      signInAgain(announce);
      return;
    }
    const answer = await response.json().catch(() => ({}));
    if (response.status === 409 && answer.draft) {
      const own = recent.some((sent) => same(answer.draft, sent)); // its answer was lost
      if (!own) return void offer(answer.draft, answer.saved_at);
      base = answer.saved_at;
      return void plan(0);
    }
    status.textContent = `Not saved: ${answer.detail ?? "something broke on our side"}`;
    if (response.status >= 500) plan(RETRY_MS);
  };

  const save = async ({ last = false } = {}) => {
    clearTimeout(timer);
    timer = null;
    if (stopped || other) return;
    if (busy && !last) return plan(200);
    busy = true;
    const upTo = changes;
    const sent = fieldsOf(form);
    const body = JSON.stringify(sent);
    recent = [sent, ...recent].slice(0, RECENT);
    keepHere({ synced: false });
    try {
      const response = await fetch(`${address}?base=${encodeURIComponent(base)}`, {
        method: "PUT",
        headers: { "Content-Type": "application/json", Accept: "application/json" },
        body,
        keepalive: last && body.length < KEEPALIVE_CHARACTERS,
      });
      if (stopped) return;
      if (!response.ok) return void (await refused(response));
      const answer = await response.json();
      base = answer.saved_at;
      lastSaved = performance.now();
      if (upTo === changes) unsavedSince = null;
      keepHere({ synced: upTo === changes });
      renewed(answer.seconds_left);
      status.textContent = `Draft saved ${clock(new Date())}`;
    } catch {
      if (stopped) return;
      status.textContent = "No connection: kept in this browser";
      plan(RETRY_MS);
    } finally {
      busy = false;
    }
  };

  copies.tidy();
  const shown = givenFields(form);
  const begun = !same(fieldsOf(form), shown); // somebody typed before this script ran
  const copy = copies.missing(base);
  if (base) {
    const saved = new Date(base);
    const today = saved.toDateString() === new Date().toDateString();
    status.textContent = `Draft from ${today ? clock(saved) : saved.toLocaleString()} is back`;
  }
  if (copy) copies.drop(copy.key);
  if (copy && !same(copy.fields, fieldsOf(form))) {
    const sent = copy.recent ?? [];
    const grewFromShown = copy.base >= base || sent.some((fields) => same(fields, shown));
    recent = [copy.fields, ...sent].slice(0, RECENT); // the page that wrote it may have sent it
    if (copy.base > base) base = copy.base;
    if (copy.other && !same(copy.other, copy.fields)) {
      restore(form, copy.fields);
      offer(copy.other, base);
    } else if (grewFromShown && !begun) {
      restore(form, copy.fields);
      status.textContent = "Your last changes were kept in this browser";
      changed();
    } else {
      offer(copy.fields, base);
    }
  } else if (begun) {
    changed();
  }

  form.addEventListener("input", changed, { signal });
  window.addEventListener("online", () => unsavedSince !== null && save(), { signal });
  document.addEventListener(
    "visibilitychange",
    () => document.hidden && timer !== null && save({ last: true }),
    { signal },
  );
  const stop = () => {
    stopped = true;
    clearTimeout(timer);
  };
  signal.addEventListener("abort", stop);

  return {
    secondsSinceSave: () => (performance.now() - lastSaved) / 1000,
    // While the form is sent. What the server refuses it keeps as the draft: one of this page's own.
    stop() {
      recent = [fieldsOf(form), ...recent].slice(0, RECENT);
      stop();
    },
    resume() {
      stopped = false;
      if (unsavedSince !== null) plan(PAUSE_MS);
    },
    forget() {
      stop();
      copies.forget();
    },
  };
}
