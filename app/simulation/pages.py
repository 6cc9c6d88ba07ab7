"""Reading the labeler's pages as a browser would: the form, its fields, the texts to judge."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = frozenset({"area", "br", "hr", "img", "input", "link", "meta", "wbr"})


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


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page = LabelPage()
        self._depth = 0
        self._in_form = False
        self._completion: tuple[int, str] | None = None  # depth of its element, its letter
        self._reading: tuple[int, str] | None = None  # depth of the text's element, its letter
        self._text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag not in _VOID:
            self._depth += 1
        if tag == "form":
            self._in_form = values.get("id") == "label-form"
            if self._in_form:
                self.page.kind, self.page.action = values["data-kind"], values["action"]
            elif values.get("id") == "acknowledge":
                self.page.guidelines = values["action"]
        elif tag == "input" and self.page.guidelines and values.get("name") == "version":
            self.page.guidelines_version = values["value"]
        elif self._in_form and tag in {"input", "textarea", "select"} and "name" in values:
            self.page.fields.add(values["name"])
        classes = values.get("class", "").split()
        if "completion" in classes:
            self._completion = (self._depth, values["data-letter"])
        if values.get("id") == "prompt-text":
            self._reading, self._text = (self._depth, ""), []
        elif "reading" in classes and self._completion is not None:
            self._reading, self._text = (self._depth, self._completion[1]), []

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        if self._reading is not None and self._reading[0] == self._depth:
            letter, text = self._reading[1], "".join(self._text)
            self._reading = None
            if letter:
                self.page.completions[letter] = text
            else:
                self.page.prompt = text
        if self._completion is not None and self._completion[0] == self._depth:
            self._completion = None
        if tag == "form":
            self._in_form = False
        self._depth -= 1

    def handle_data(self, data: str) -> None:
        if self._reading is not None:
            self._text.append(data)


def read_page(html: str) -> LabelPage:
    """The label task on a page; an empty `kind` where there is none."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.page
