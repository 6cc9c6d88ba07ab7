"""Reading the labeler's pages as a browser would: the form, its fields, the texts to judge."""

from __future__ import annotations

from dataclasses import dataclass, field

from selectolax.lexbor import LexborHTMLParser, LexborNode


@dataclass
class LabelPage:
    """What a labeler sees: the prompt, the completions by letter, and the form for the label.

    `kind` is "demonstration", "ranking" or "prompt", empty for a page without a label task.
    `fields` are the names of the form's controls; a name that is not there is a question that is
    not asked.
    `guidelines` is the address to say at that `guidelines_version` was read, where the page asks.
    """

    kind: str = ""
    action: str = ""
    prompt: str = ""
    completions: dict[str, str] = field(default_factory=dict)
    fields: set[str] = field(default_factory=set)
    guidelines: str = ""
    guidelines_version: str = ""


def read_page(html: str) -> LabelPage:
    """The label task on a page; an empty `kind` where there is none."""
    tree = LexborHTMLParser(html)
    page = LabelPage()
    acknowledge = tree.css_first("form#acknowledge")
    if acknowledge is not None:
        page.guidelines = _attribute(acknowledge, "action")
        version = acknowledge.css_first("input[name=version]")
        page.guidelines_version = "" if version is None else _attribute(version, "value")
    form = tree.css_first("form#label-form")
    if form is not None:
        page.kind, page.action = _attribute(form, "data-kind"), _attribute(form, "action")
        controls = form.css("input[name], textarea[name], select[name]")
        page.fields = {_attribute(control, "name") for control in controls}
    prompt = tree.css_first("#prompt-text")
    page.prompt = "" if prompt is None else prompt.text()
    for card in tree.css(".completion"):
        text = card.css_first(".reading")
        if text is not None:
            page.completions[_attribute(card, "data-letter")] = text.text()
    return page


def _attribute(node: LexborNode, name: str) -> str:
    return node.attributes.get(name) or ""
