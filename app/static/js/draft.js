// Drafts: in this browser at once, on the server within two seconds of the last change.
//
// The browser's copy says which server draft it grew from (`base`) and whether the server has it
// (`synced`). It is restored only when it grew from the draft that the page came with and holds
// something newer: no two clocks are compared.

const PAUSE_MS = 1000;
const RETRY_MS = 5000;
const PREFIX = "plumbline.draft.";

export function fieldsOf(form) {
  const fields = {};
  for (const [name, value] of new FormData(form)) fields[name] = value;
  return fields;
}

function restore(form, fields) {
  for (const control of form.elements) {
    if (control.type === "radio") control.checked = fields[control.name] === control.value;
    else if (control.name in fields) control.value = fields[control.name];
  }
  for (const details of form.querySelectorAll("details")) {
    if (details.querySelector('input:checked:not([value=""])')) details.open = true;
  }
  form.dispatchEvent(new Event("restored"));
}

function read(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null; // storage is off, or holds something that is not ours
  }
}

function write(key, copy) {
  try {
    localStorage.setItem(key, JSON.stringify(copy));
  } catch {
    // Storage is off or full: the server's draft remains.
  }
}

// Drafts of assignments that were sent and are on the screen no more.
function forgetSent(current) {
  for (const key of Object.keys(localStorage)) {
    if (key.startsWith(PREFIX) && key !== current && read(key)?.sent) localStorage.removeItem(key);
  }
}

export function keepDraft(form, status, renewed, { signal }) {
  const key = PREFIX + form.dataset.assignment;
  let base = form.dataset.savedAt;
  let timer = null;
  let changes = 0;
  let busy = false;

  forgetSent(key);

  const keepHere = (more) => write(key, { base, fields: fieldsOf(form), ...more });

  const clock = (moment) => moment.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

  const save = async (options = {}) => {
    clearTimeout(timer);
    timer = null;
    if (busy) {
      timer = setTimeout(save, PAUSE_MS);
      return;
    }
    busy = true;
    const upTo = changes;
    try {
      const response = await fetch(`/assignments/${form.dataset.assignment}/draft`, {
        method: "PUT",
        headers: { "Content-Type": "application/json", Accept: "application/json" },
        body: JSON.stringify(fieldsOf(form)),
        ...options,
      });
      if (!response.ok) {
        const { detail } = await response.json();
        status.textContent = `Not saved: ${detail}`;
        return;
      }
      const answer = await response.json();
      base = answer.saved_at;
      keepHere({ synced: upTo === changes });
      renewed(answer.seconds_left);
      status.textContent = `Draft saved ${clock(new Date())}`;
    } catch {
      status.textContent = "No connection: kept in this browser";
      timer = setTimeout(save, RETRY_MS);
    } finally {
      busy = false;
    }
  };

  const changed = () => {
    changes += 1;
    keepHere({ synced: false });
    clearTimeout(timer);
    timer = setTimeout(save, PAUSE_MS);
  };

  const copy = read(key);
  if (copy && !copy.synced && !copy.sent && copy.base === base) {
    restore(form, copy.fields);
    status.textContent = "Your last changes were kept in this browser";
    changed();
  } else if (base) {
    const saved = new Date(base);
    const today = saved.toDateString() === new Date().toDateString();
    status.textContent = `Draft from ${today ? clock(saved) : saved.toLocaleString()} is back`;
  }

  form.addEventListener("input", changed, { signal });
  form.addEventListener(
    "submit",
    () => {
      clearTimeout(timer);
      keepHere({ sent: true });
    },
    { signal },
  );
  document.addEventListener(
    "visibilitychange",
    () => {
      if (document.hidden && timer !== null) save({ keepalive: true });
    },
    { signal },
  );
}
