// A message to the researchers, sent from where one is; the work stays on the screen.

import { showNotice, signInAgain } from "./notice.js";

export function sendFlags(form, { signal, announce }) {
  const menu = form.closest("details");
  form.addEventListener(
    "submit",
    async (event) => {
      event.preventDefault();
      try {
        const response = await fetch(form.action, {
          method: "POST",
          headers: { Accept: "application/json" },
          body: new URLSearchParams(new FormData(form)),
        });
        if (response.status === 401) return signInAgain(announce, { focus: true });
        const { detail } = await response.json();
        if (!response.ok) return showNotice(announce, `Not sent: ${detail}`, [], { focus: true });
        showNotice(announce, "Sent. The answer will come under Flags.", [], { tone: "good" });
        form.reset();
        menu.open = false;
        menu.querySelector("summary").focus();
      } catch {
        showNotice(announce, "No connection: your message was not sent. It is still there.", [], {
          focus: true,
        });
      }
    },
    { signal },
  );
}
