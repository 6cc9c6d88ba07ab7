"""Dialogues, in the forms they are published in, as prompts and completions.

Whatever form it came in, a dialogue is rendered in one way: a single turn of the user is its text
alone, so that it is the same prompt as one from a plain file; longer ones are turns that begin with
"Human:" and "Assistant:", and end where the assistant is to speak.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.services.importing.problems import LeftOut, RowProblem
from app.services.importing.records import json_kind

USER = "user"
ASSISTANT = "assistant"
SYSTEM = "system"

SPOKEN: Final = {USER: "Human", ASSISTANT: "Assistant", SYSTEM: "System"}
ROLES: Final = {
    **dict.fromkeys(("user", "human", "prompter"), USER),
    **dict.fromkeys(("assistant", "gpt", "model", "bot"), ASSISTANT),
    **dict.fromkeys(("system", "developer"), SYSTEM),
}
_MARK = re.compile(r"(?:\A|\n\n)(Human|Assistant):")


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    text: str


def is_transcript(value: Any) -> bool:
    """Whether it is text in the form of HH-RLHF: "\\n\\nHuman: … \\n\\nAssistant: …".

    Text that only begins with "Human:" may be anybody's prompt: it must have the assistant, too.
    """
    if not isinstance(value, str):
        return False
    return value.startswith("\n\nHuman:") or (
        value.startswith("Human:") and "\n\nAssistant:" in value
    )


def transcript(value: str) -> list[Turn]:
    """The turns of such a text."""
    parts = _MARK.split(value.lstrip("\n"))
    return [
        Turn(ROLES[role.lower()], text.strip())
        for role, text in zip(parts[1::2], parts[2::2], strict=True)
    ]


def messages(name: str, value: Any) -> list[Turn]:
    """The turns of a list of chat messages, in a CSV cell as JSON. Raises RowProblem."""
    value = listed(name, value)
    if not value:
        raise RowProblem(f"{name} has no messages")
    return [_message(f"{name}[{place}]", item) for place, item in enumerate(value)]


def _message(name: str, value: Any) -> Turn:
    if not isinstance(value, dict):
        raise RowProblem(f"{name} must be an object, not {json_kind(value)}")
    role = value.get("role", value.get("from"))
    content = value.get("content", value.get("value"))
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise RowProblem(f"{name} has the role {str(role)[:40]!r}; known are {', '.join(ROLES)}")
    if isinstance(content, list):
        content = "\n".join(_part(name, part) for part in content)
    if not isinstance(content, str):
        raise RowProblem(f"{name} has no text, but {json_kind(content)}")
    return Turn(ROLES[role.lower()], content.strip())


def _part(name: str, part: Any) -> str:
    if not isinstance(part, dict) or not isinstance(part.get("text"), str):
        raise RowProblem(f"{name} has a part that is not text")
    text: str = part["text"]
    return text


def listed(name: str, value: Any) -> list[Any]:
    """A list, in a CSV cell as JSON. Raises RowProblem."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowProblem(f"{name} must be a list in JSON") from None
    if not isinstance(value, list):
        raise RowProblem(f"{name} must be a list, not {json_kind(value)}")
    return value


def turns(name: str, value: Any) -> list[Turn]:
    """The turns of a dialogue in any of these forms; plain text is one turn of the user."""
    if is_transcript(value):
        return transcript(value)
    if isinstance(value, str):
        return [Turn(USER, value)]
    return messages(name, value)


def up_to_answer(dialogue: Sequence[Turn]) -> list[Turn]:
    """All up to the assistant's last turn, if it ends with one. Raises LeftOut for no user."""
    asked = list(dialogue)
    while asked and asked[-1].role == ASSISTANT:
        asked.pop()
    if not any(turn.role == USER and turn.text for turn in asked):
        raise LeftOut("the dialogue has no turn of the user")
    return asked


def question_and_answer(dialogue: Sequence[Turn]) -> tuple[list[Turn], str]:
    """All up to the assistant's last turn, and that turn. Raises LeftOut where there is none."""
    if not dialogue or dialogue[-1].role != ASSISTANT:
        raise LeftOut("the dialogue does not end with a turn of the assistant")
    asked = list(dialogue[:-1])
    if not any(turn.role == USER and turn.text for turn in asked):
        raise LeftOut("the dialogue has no turn of the user")
    return asked, dialogue[-1].text


def render(asked: Sequence[Turn]) -> str:
    """The prompt that stands for these turns."""
    if len(asked) == 1 and asked[0].role == USER:
        return asked[0].text
    spoken = [f"{SPOKEN[turn.role]}: {turn.text}" for turn in asked]
    return "\n\n".join([*spoken, f"{SPOKEN[ASSISTANT]}:"])


def first_said(asked: Sequence[Turn]) -> str:
    """What the user said first: dialogues that begin alike belong together."""
    return next(turn.text for turn in asked if turn.role == USER)
