"""What is found out about a text by itself: all that needs no other prompt, and so may be done in
a process beside this one. Imports nothing of the database: such a process stays small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from app.services.preparation.pii import Span, find_pii
from app.services.preparation.sketches import bands, shingles
from app.services.preparation.texts import (
    comparison_form,
    language_of,
    prefix_hash,
    token_counts,
)

if TYPE_CHECKING:
    from app.services.preparation.use_cases import Classifier, Suggestion


class Findings(NamedTuple):
    """Of one text. Of one that is too long there is its length alone."""

    tokens: int
    language: str | None = None
    spans: Sequence[Span] = ()
    suggestion: Suggestion | None = None
    prefix: int | None = None
    bands: Sequence[int] = ()


class Asked(NamedTuple):
    """A text, and whether a use case is to be suggested for it."""

    text: str
    suggest: bool


@dataclass(frozen=True, kw_only=True)
class Examiner:
    """What to look for, as PreparationSettings have it; pickled for other processes."""

    max_tokens: int
    tokenizer: str | None
    prefix_characters: int
    pii: bool
    classifier: Classifier | None

    def __call__(self, asked: Sequence[Asked]) -> list[Findings]:
        """Findings of each, in their order. Raises as `token_counts` does."""
        lengths = token_counts([text for text, _ in asked], self.tokenizer)
        return [
            Findings(tokens) if tokens > self.max_tokens else self._look(tokens, *one)
            for tokens, one in zip(lengths, asked, strict=True)
        ]

    def _look(self, tokens: int, text: str, suggest: bool) -> Findings:
        form = comparison_form(text)
        return Findings(
            tokens=tokens,
            language=language_of(text),
            spans=find_pii(text) if self.pii else (),
            suggestion=self.classifier.suggest(text) if suggest and self.classifier else None,
            prefix=prefix_hash(form, self.prefix_characters),
            bands=tuple(bands(shingles(form))),
        )
