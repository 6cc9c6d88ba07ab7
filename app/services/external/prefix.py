"""A few-shot prefix: what stands before the prompt, so that a model follows instructions.

The paper's baseline "GPT-3 (prompted)" has one "prepended to the user-specified instruction"
(section 3.5). It is written as text:

    Answer as a helpful assistant would.

    Query: Name a colour.
    Response: Blue

    Query: Say hello in French.
    Response: Bonjour
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from app.errors import Invalid
from app.services.few_shot import FewShot, Pair

QUERY = "Query:"
RESPONSE = "Response:"
_MARK = re.compile(rf"^({QUERY}|{RESPONSE})", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """An instruction, which may be empty, and pairs, which there may be none of."""

    instruction: str
    pairs: Sequence[Pair]

    def before(self, prompt: str) -> str:
        """One text for a model that continues texts: without pairs, the prompt stands as it is."""
        if self.pairs:
            parts = FewShot(instruction=self.instruction, pairs=self.pairs, query=prompt)
            return parts.rendered().lstrip("\n")
        return f"{self.instruction}\n\n{prompt}" if self.instruction else prompt

    def messages(self, prompt: str) -> list[dict[str, str]]:
        """The same as a chat: the instruction as system, each pair as a turn that was answered."""
        found = [{"role": "system", "content": self.instruction}] if self.instruction else []
        for pair in self.pairs:
            found.append({"role": "user", "content": pair.query})
            found.append({"role": "assistant", "content": pair.response})
        return [*found, {"role": "user", "content": prompt}]


def read_prefix(text: str) -> Prefix:
    """The parts of a prefix. Raises Invalid where queries and responses do not take turns."""
    text = text.replace("\r\n", "\n")
    instruction, *parts = _MARK.split(text)
    pairs = []
    for place in range(0, len(parts), 4):
        number = place // 4 + 1
        marks, texts = parts[place : place + 4 : 2], parts[place + 1 : place + 4 : 2]
        if marks != [QUERY, RESPONSE]:
            raise Invalid(
                f"Pair {number} is not a line that begins with {QUERY} and "
                f"one that begins with {RESPONSE}. The prompt itself is added behind the pairs."
            )
        query, response = (part.strip() for part in texts)
        if not query or not response:
            raise Invalid(f"Pair {number} has an empty query or response.")
        pairs.append(Pair(query=query, response=response))
    return Prefix(instruction=instruction.strip(), pairs=pairs)
