// One place above the form for what a person has to know or decide: a sentence and what can be done.

export function showNotice(announce, text, actions = [], { tone = "bad", focus = false } = {}) {
  const element = document.getElementById("notice");
  const words = document.createElement("p");
  words.textContent = text;
  const buttons = actions.map(({ label, act, href }) => {
    const button = document.createElement(href ? "a" : "button");
    button.className = "button small";
    button.textContent = label;
    if (href) button.href = href;
    else {
      button.type = "button";
      button.addEventListener("click", act);
    }
    return button;
  });
  element.className = `notice flash ${tone}`;
  element.replaceChildren(words, ...buttons);
  element.hidden = false;
  if (focus) element.focus();
  else announce(text);
}

export function hideNotice() {
  const element = document.getElementById("notice");
  if (element) element.hidden = true;
}

export function signInAgain(announce, { focus = false } = {}) {
  const back = encodeURIComponent(window.location.pathname);
  showNotice(
    announce,
    "You are signed out. What you did is kept in this browser and comes back after you sign in.",
    [{ label: "Sign in", href: `/login?next=${back}` }],
    { focus },
  );
}
