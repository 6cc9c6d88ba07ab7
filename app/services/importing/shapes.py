"""The shapes that data sets are published in, each turned into the plain columns of its kind.

| shape | looks like |
|---|---|
| dialogue pairs (HH-RLHF) | `chosen`, `rejected`: whole dialogues that differ in the last turn |
| preference pairs (TRL) | `prompt`, `chosen`, `rejected`, as text or as lists of messages |
| chat | `messages` (or `conversations`): a list of `role` and `content` |
| message trees (OASST) | `prompt` with `replies`, and theirs, with `rank`: 0 is best |
| rankings | `prompt`, `completions`, and `groups` (places, best first) or `ranks` (1 is best) |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from app.services.importing.dialogues import (
    ASSISTANT,
    ROLES,
    USER,
    Turn,
    first_said,
    is_transcript,
    messages,
    question_and_answer,
    render,
    turns,
    up_to_answer,
)
from app.services.importing.problems import LeftOut, RowProblem
from app.services.importing.records import Names
from app.services.prompts import normalize, text_sha256

Row = Mapping[str, Any]

CHAT: Final[Names] = ("messages", "conversations")
PAIR: Final[Names] = ("chosen", "rejected")
TEXT: Final[Names] = ("prompt", "instruction")
ANSWER: Final[Names] = ("completion", "response", "output")
MAX_DEPTH = 200  # of a message tree: each level repeats the dialogue above it


def plain_rows(kind: str, values: Row) -> Iterator[Row]:
    """The rows that one record holds, in the plain columns of `kind`: one, but of a tree many.

    Raises RowProblem, and LeftOut for a record without anything of that kind.
    """
    if kind == "completions":
        yield values
    elif isinstance(values.get("prompt"), dict):
        yield from _tree(kind, values["prompt"])
    elif kind == "prompts":
        yield _prompt(values)
    elif kind == "demonstrations":
        yield _demonstration(values)
    elif kind == "comparisons":
        yield _comparison(values)
    else:
        yield _asked(values, *TEXT)


def accepted(kind: str, required: Sequence[Names]) -> Sequence[Names]:
    """The columns that a file of the kind must have, those of published shapes among them."""
    if kind == "prompts":
        return [(*required[0], *CHAT, "chosen"), *required[1:]]
    return required


def _columns(asked: Sequence[Turn]) -> dict[str, Any]:
    """The prompt, and as its user what the user said first: a dialogue's continuations stand in one
    split with it, and with the plain prompt that is the same."""
    return {
        "prompt": render(asked),
        "user": f"prompt:{text_sha256(normalize(first_said(asked)))}",
    }


def _without(values: Row, *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _chat(values: Row) -> tuple[str, list[Turn]] | None:
    name = next((name for name in CHAT if values.get(name)), None)
    return None if name is None else (name, messages(name, values[name]))


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _asked(values: Row, *names: str) -> Row:
    """The record with a prompt that is a dialogue rendered; others stay as they are."""
    for name in names:
        value = values.get(name)
        if _is_chat(value) or is_transcript(value):
            asked = up_to_answer(turns(name, value))
            return _columns(asked) | _without(values, name)
    return values


def _prompt(values: Row) -> Row:
    if found := _chat(values):
        name, dialogue = found
        return _columns(up_to_answer(dialogue)) | _without(values, name)
    if not values.keys() & {*TEXT, "text", "few_shot"} and values.get("chosen"):
        asked = up_to_answer(turns("chosen", values["chosen"]))
        return _columns(asked) | _without(values, *PAIR)
    return _asked(values, *TEXT)


def _demonstration(values: Row) -> Row:
    if found := _chat(values):
        name, dialogue = found
        asked, answer = question_and_answer(dialogue)
        return _columns(asked) | _without(values, name) | {"completion": answer}
    name = next((name for name in ANSWER if name in values), ANSWER[0])
    answer = _answer(name, values.get(name))
    return _without(_asked(values, *TEXT), name) | {"completion": answer}


def _answer(name: str, value: Any) -> Any:
    """A completion as text, also where it is the last of a list of messages."""
    return messages(name, value)[-1].text if isinstance(value, list) else value


def _comparison(values: Row) -> Row:
    """Prompt, completions and groups. Without a prompt, or where they repeat it, both are whole
    dialogues."""
    chosen, rejected = (values.get(name) for name in PAIR)
    known = any(values.get(name) for name in TEXT)
    rest = _without(values, *PAIR, "chosen_model", "rejected_model")
    models = [values.get("chosen_model"), values.get("rejected_model")]
    given = {"models": models} if any(models) else {}
    if (known and not is_transcript(chosen)) or chosen is None or rejected is None:
        pair = [_answer("chosen", chosen), _answer("rejected", rejected)]
        asked: Row = _asked(rest, *TEXT)
    else:
        better, first = question_and_answer(turns("chosen", chosen))
        worse, second = question_and_answer(turns("rejected", rejected))
        if better != worse:
            raise LeftOut("chosen and rejected answer different prompts")
        pair = [first, second]
        asked = _without(rest, *TEXT) | _columns(better)
    for name, text in zip(PAIR, pair, strict=True):
        if not isinstance(text, str):
            raise RowProblem(f"{name} is missing or not text")
    return {**asked, "completions": pair, "groups": [[0], [1]], **given}


def _tree(kind: str, root: Mapping[str, Any]) -> Iterator[Row]:
    """What of `kind` stands at each question of a message tree."""
    if kind == "comparisons":
        raise RowProblem("a message tree holds rankings: import the file as rankings")
    found = False
    for asked, node in _questions(root):
        row = _at_question(kind, asked, node)
        if row is not None:
            found = True
            yield row
    if not found:
        raise LeftOut(f"the message tree holds no {kind}")


def _questions(root: Mapping[str, Any]) -> Iterator[tuple[list[Turn], Mapping[str, Any]]]:
    """The user's messages of a tree, each with the turns up to it, in the order of the tree."""
    waiting: list[tuple[list[Turn], Mapping[str, Any]]] = [([], root)]
    while waiting:
        before, node = waiting.pop()
        role, text = ROLES.get(str(node.get("role")).lower()), node.get("text")
        if role is None or not isinstance(text, str):
            raise RowProblem("a message of the tree has no role or no text")
        path = [*before, Turn(role, text.strip())]
        if len(path) > MAX_DEPTH:
            raise RowProblem(f"the message tree is more than {MAX_DEPTH} messages deep")
        if role == USER:
            yield path, node
        waiting += [(path, reply) for reply in reversed(_replies(node))]


def _replies(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    replies = node.get("replies")
    if replies is None:
        return []
    if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
        raise RowProblem("the replies of a message must be a list of messages")
    return [reply for reply in replies if not reply.get("deleted")]


def _at_question(kind: str, asked: list[Turn], node: Mapping[str, Any]) -> Row | None:
    replies = [reply for reply in _replies(node) if ROLES.get(str(reply.get("role"))) == ASSISTANT]
    ranked = [reply for reply in replies if _rank(reply) is not None]
    columns = _columns(asked)
    if kind == "prompts":
        return {**columns, "prompt_id": node.get("message_id")}
    if kind == "demonstrations":
        best = min(ranked, key=_place, default=replies[0] if len(replies) == 1 else None)
        return None if best is None else {**columns, "completion": best.get("text")}
    if len(ranked) < 2:
        return None
    return {
        **columns,
        "completions": [reply.get("text") for reply in ranked],
        "ranks": [_rank(reply) for reply in ranked],
        "models": [reply.get("model_name") for reply in ranked],
    }


def _rank(reply: Mapping[str, Any]) -> int | None:
    rank = reply.get("rank")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int)):
        raise RowProblem(f"a rank must be a whole number, not {str(rank)[:40]!r}")
    return rank


def _place(reply: Mapping[str, Any]) -> int:
    return _rank(reply) or 0
