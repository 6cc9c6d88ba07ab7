// The keys that every assignment has: submit, skip, flag, help. Plain letters act only while the
// focus is on nothing that takes text, a choice from a list, or an open dialog.

export const BUSY = 'textarea, select, dialog, [popover], .menu-panel, input:not([type="radio"], [type="checkbox"])';

export function listenForKeys(form, { signal }) {
  const open = (id) => {
    const menu = document.getElementById(id);
    if (!menu) return;
    menu.open = true;
    menu.querySelector(".menu-panel :is(input:not([type='hidden']), textarea)").focus();
  };

  const act = {
    s: () => open("skip"),
    S: () => open("skip"),
    F: () => open("flag"),
    f: () => open("flag"),
    "?": () => document.getElementById("help").showPopover(),
  };

  document.addEventListener(
    "keydown",
    (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        if (event.target.closest(".menu-panel, dialog")) return; // a form of its own
        event.preventDefault();
        const submit = form.querySelector('button[type="submit"]');
        if (!submit.disabled) form.requestSubmit(submit);
        return;
      }
      if (event.key === "Escape") {
        const menu = event.target.closest(".menu[open]");
        if (menu) {
          menu.open = false;
          menu.querySelector("summary").focus();
        }
        return;
      }
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.target.closest(BUSY) || !(event.key in act)) return;
      // A completion may bear the letter F; Shift and F always flags.
      if (event.key === "f" && form.querySelector('[data-letter="F"]')) return;
      event.preventDefault();
      act[event.key]();
    },
    { signal },
  );
}
