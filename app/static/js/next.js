// Onward without waiting: the next task is fetched while this one is on the screen, and takes its
// place as soon as the server has stored the label. Where the server refuses, or does not answer,
// the form stays as it is and says why.

import { hideNotice, showNotice, signInAgain } from "./notice.js";

const READY_MS = 200; // after the page is shown

// `replace(root)` starts the page anew after its <main> was swapped.
export function goOn(form, { signal, announce, draft, replace }) {
  const { start } = document.querySelector(".toolbar").dataset; // where the next task is found
  let fetched = null; // the next page: { address, page }
  let busy = false;
  delete document.documentElement.dataset.ahead;

  const fetchAhead = async () => {
    try {
      const response = await fetch(`${start}/ahead`, { method: "POST", signal });
      if (response.status !== 200) return;
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const next = page.getElementById("label-form");
      if (!next) return;
      loadStyles(page);
      fetched = { address: new URL(next.action).pathname, page };
      document.documentElement.dataset.ahead = "ready";
    } catch {
      // Without it the next task is loaded after the submit.
    }
  };

  const arrive = (answer) => {
    draft.forget();
    if (fetched?.address !== answer.location) {
      window.location.assign(answer.location);
      return;
    }
    show(fetched, answer);
    replace(document.getElementById("main"));
    const title = document.querySelector("main h1").textContent;
    announce(answer.stored ? title : `The last one was already submitted. ${title}`);
  };

  const refuse = async (response) => {
    if (response.status === 401) return signInAgain(announce, { focus: true });
    const answer = await response.json().catch(() => ({}));
    if (response.status === 422 && answer.problems) markProblems(form, answer.problems);
    const words =
      response.status >= 500
        ? "Something broke on our side. Nothing is lost: press the button again."
        : (answer.detail ?? "The server did not take this.");
    if (response.status === 409) document.getElementById("lease").hidden = true; // no use any more
    const onward = response.status === 409 ? [{ label: "Go on with the next one", href: start }] : [];
    showNotice(announce, words, onward, { focus: true });
  };

  const send = async (sent) => {
    if (busy) return;
    busy = true;
    sent.setAttribute("aria-busy", "true");
    draft.stop();
    hideNotice();
    forgetProblems(form);
    let response = null;
    try {
      response = await fetch(sent.action, {
        method: "POST",
        headers: { Accept: "application/json" },
        body: new URLSearchParams(new FormData(sent)),
      });
    } catch {
      showNotice(
        announce,
        "No connection: this was not sent. It is kept in this browser; press the button again.",
        [],
        { focus: true },
      );
    }
    busy = false;
    sent.removeAttribute("aria-busy");
    if (response?.ok) return arrive(await response.json());
    if (response) await refuse(response);
    draft.resume();
  };

  for (const sent of [form, document.getElementById("skip-form")]) {
    sent?.addEventListener(
      "submit",
      (event) => {
        event.preventDefault();
        send(sent);
      },
      { signal },
    );
  }
  if (form.elements.correction) return;
  const timer = setTimeout(fetchAhead, READY_MS);
  signal.addEventListener("abort", () => clearTimeout(timer));
}

// What the next page needs and this one has not loaded, long before it is shown.
function loadStyles(page) {
  const has = new Set([...document.querySelectorAll("link[rel=stylesheet]")].map((link) => link.href));
  for (const link of page.querySelectorAll("link[rel=stylesheet]")) {
    if (!has.has(link.href)) document.head.append(document.importNode(link));
  }
}

function show({ address, page }, answer) {
  const main = page.getElementById("main");
  main.querySelector("#lease").dataset.secondsLeft = Math.round(answer.seconds_left ?? 0);
  document.getElementById("main").replaceWith(document.adoptNode(main));
  document.querySelector("#guidelines .prose").replaceWith(
    document.adoptNode(page.querySelector("#guidelines .prose")),
  );
  document.title = page.title;
  document.getElementById("today").textContent = `${answer.today} today`;
  window.history.pushState({}, "", address);
  shownPath = address;
  window.scrollTo(0, 0);
  main.querySelector("h1").focus({ preventScroll: true });
}

function markProblems(form, problems) {
  for (const [name, words] of Object.entries(problems)) {
    const found = form.elements[name];
    const controls = found instanceof RadioNodeList ? [...found] : [found].filter(Boolean);
    for (const control of controls) control.setAttribute("aria-invalid", "true");
    const field = controls[0]?.closest("fieldset, .field");
    field?.classList.add("has-error");
    if (!field?.matches(".field")) continue; // a place on the board: the notice names it
    const message = document.createElement("p");
    message.className = "field-error";
    message.id = `${name}-error`;
    message.textContent = words;
    field.append(message);
    const before = controls[0].getAttribute("aria-describedby") ?? "";
    controls[0].setAttribute("aria-describedby", [...new Set([...before.split(" "), message.id])].join(" ").trim());
  }
  form.dispatchEvent(new CustomEvent("refused", { detail: problems }));
}

function forgetProblems(form) {
  for (const field of form.querySelectorAll(".has-error")) field.classList.remove("has-error");
  for (const message of form.querySelectorAll(".field-error")) message.remove();
  for (const control of form.querySelectorAll("[aria-invalid]")) control.removeAttribute("aria-invalid");
}

// Back and forward lead to pages that were swapped away: they are loaded anew.
let shownPath = window.location.pathname;
window.addEventListener("popstate", () => {
  if (window.location.pathname !== shownPath) window.location.reload();
});
