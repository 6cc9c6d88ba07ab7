"""Few-shot prompts: an instruction, pairs of query and response, and the query to respond to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class BrokenFewShot(ValueError):
    """Not the parts of a few-shot prompt; the message says what is wrong."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    query: str
    response: str


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """The parts of a few-shot prompt (paper, appendix A.2.1), each with text in it."""

    instruction: str
    pairs: Sequence[Pair]
    query: str

    def rendered(self) -> str:
        """The prompt as one text: the instruction, a block a pair, the query with no response.

        Tell the mood of the sentence.

        Query: I won!
        Response: glad

        Query: It rains again.
        Response:
        """
        blocks = [f"Query: {pair.query}\nResponse: {pair.response}" for pair in self.pairs]
        return "\n\n".join([self.instruction, *blocks, f"Query: {self.query}\nResponse:"])

    def to_json(self) -> dict[str, Any]:
        """As Prompt.few_shot holds it."""
        pairs = [{"query": pair.query, "response": pair.response} for pair in self.pairs]
        return {"instruction": self.instruction, "pairs": pairs, "query": self.query}


def read_few_shot(value: Any) -> FewShot:
    """The parts from JSON, without white space around them. Raises BrokenFewShot."""
    fields = _object(value, "few_shot", {"instruction", "pairs", "query"})
    pairs = fields["pairs"]
    if not isinstance(pairs, list) or not pairs:
        raise BrokenFewShot("few_shot.pairs must be a list of at least one query and response")
    return FewShot(
        instruction=_text(fields["instruction"], "few_shot.instruction"),
        pairs=[_pair(pair, f"few_shot.pairs[{place}]") for place, pair in enumerate(pairs)],
        query=_text(fields["query"], "few_shot.query"),
    )


def _pair(value: Any, name: str) -> Pair:
    fields = _object(value, name, {"query", "response"})
    return Pair(
        query=_text(fields["query"], f"{name}.query"),
        response=_text(fields["response"], f"{name}.response"),
    )


def _object(value: Any, name: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BrokenFewShot(f"{name} must be an object with {', '.join(sorted(keys))}")
    if missing := sorted(keys - value.keys()):
        raise BrokenFewShot(f"{name} has no {missing[0]}")
    if unknown := sorted(value.keys() - keys):
        raise BrokenFewShot(f"{name} holds {unknown[0][:40]!r}, which has no meaning there")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BrokenFewShot(f"{name} must be text, and not empty")
    return value.strip()
