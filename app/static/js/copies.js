// This browser's copies of drafts: one for each assignment and tab, written at every change.
//
// A copy says which server draft it grew from (`base`), what was sent last and may have arrived
// (`recent`), and whether the server has all of it (`synced`).

const PREFIX = "plumbline.draft.";
const KEPT_MS = 30 * 86_400_000;
const NOT_TYPED = new Set(["active_seconds", "step"]); // what nobody would miss

function tabName() {
  try {
    const name = sessionStorage.getItem("plumbline.tab") ?? Math.random().toString(36).slice(2);
    sessionStorage.setItem("plumbline.tab", name);
    return name;
  } catch {
    return "tab";
  }
}

function read(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null; // storage is off, or holds something that is not ours
  }
}

const drafts = () => {
  try {
    return Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
  } catch {
    return [];
  }
};

function remove(key) {
  try {
    localStorage.removeItem(key);
  } catch {
    // Storage is off: there is nothing to remove.
  }
}

export function copiesOf(assignment) {
  const prefix = `${PREFIX}${assignment}.`;
  const own = prefix + tabName();
  return {
    write(copy) {
      try {
        localStorage.setItem(own, JSON.stringify({ ...copy, at: Date.now() }));
      } catch {
        // Storage is off or full: the server's draft remains.
      }
    },

    // The newest copy that a page with the server's draft `base` lacks, this tab's own before those
    // of others: the server may not have it, or got it after it sent the page (a reload does that).
    missing(base) {
      const found = drafts()
        .filter((key) => key.startsWith(prefix))
        .map((key) => ({ key, ...read(key) }))
        .filter((copy) => copy.fields && (!copy.synced || copy.base > base))
        .sort((a, b) => (b.key === own) - (a.key === own) || b.at - a.at);
      return found[0] ?? null;
    },

    forget() {
      for (const key of drafts()) if (key.startsWith(prefix)) remove(key);
    },

    drop: remove,

    // Copies of other assignments that the server has, and those that nobody came back for.
    tidy() {
      for (const key of drafts()) {
        if (key.startsWith(prefix)) continue;
        const copy = read(key);
        if (!copy || copy.synced || Date.now() - copy.at > KEPT_MS) remove(key);
      }
    },
  };
}

export function fieldsOf(form) {
  const fields = {};
  for (const [name, value] of new FormData(form)) fields[name] = value;
  return fields;
}

// The form as the server sent it, whatever was typed before this script ran.
export function givenFields(form) {
  const fields = {};
  for (const control of form.elements) {
    if (!control.name) continue;
    if (control.type === "radio") {
      if (control.defaultChecked) fields[control.name] = control.value;
    } else if (control instanceof HTMLSelectElement) {
      const given = [...control.options].find((option) => option.defaultSelected);
      fields[control.name] = (given ?? control.options[0]).value;
    } else fields[control.name] = control.defaultValue;
  }
  return fields;
}

export function sameFields(form, one, other) {
  if (!one || !other) return false;
  const names = new Set([...Object.keys(one), ...Object.keys(other)]);
  return [...names].every(
    (name) =>
      NOT_TYPED.has(name) || isFixed(form, name) || (one[name] ?? "") === (other[name] ?? ""),
  );
}

// What the page itself brings and a draft must not change: versions.
function isFixed(form, name) {
  const control = form.elements[name];
  return control instanceof HTMLElement && "fixed" in control.dataset;
}

export function restore(form, fields) {
  for (const control of form.elements) {
    const value = fields[control.name] ?? "";
    if (!control.name || "fixed" in control.dataset) continue;
    if (control.type === "radio") control.checked = control.value === value;
    else if (control.name === "active_seconds") {
      control.value = String(Math.max(Number(control.value) || 0, Number(value) || 0));
    } else control.value = value;
  }
  for (const details of form.querySelectorAll("details")) {
    if (details.querySelector('input:checked:not([value=""])')) details.open = true;
  }
  form.dispatchEvent(new Event("restored"));
}
