"""Prompts that were held because they seem to tell about a person, and what researchers decide.

Held ones are in no new batch, snapshot or export (services.usable). Every decision can be undone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, joinedload

from app.errors import Conflict, Invalid, NotFound
from app.models import PiiState, Prompt, Study, User
from app.services.preparation.pii import KINDS, Span, placeholders, redact

SHOWN = 20  # of the queue at a time, and of what was decided last
MAX_ALSO = 20  # further passages that a researcher takes out

DECISIONS: Mapping[str, PiiState] = {
    "redact": PiiState.redacted,
    "clear": PiiState.cleared,
    "drop": PiiState.dropped,
}


@dataclass(frozen=True)
class Piece:
    """A run of a prompt's text; `kind` and `number` are set where something was found."""

    text: str
    kind: str | None = None
    number: int | None = None


@dataclass(frozen=True, kw_only=True)
class HeldPrompt:
    prompt: Prompt
    pieces: Sequence[Piece]

    @property
    def found(self) -> list[Piece]:
        return [piece for piece in self.pieces if piece.kind is not None]


@dataclass(frozen=True, kw_only=True)
class PiiQueue:
    """The oldest held prompts, how many there are, and what was decided last, newest first."""

    held: Sequence[HeldPrompt]
    total: int
    decided: Sequence[tuple[Prompt, User | None]]


def held_count(session: Session, study: Study) -> int:
    held = (Prompt.study_id == study.id, Prompt.pii_state == PiiState.held)
    return session.scalar(select(func.count()).select_from(Prompt).where(*held)) or 0


def pii_queue(session: Session, study: Study) -> PiiQueue:
    held = session.scalars(
        select(Prompt)
        .where(Prompt.study_id == study.id, Prompt.pii_state == PiiState.held)
        .options(joinedload(Prompt.source_user))
        .order_by(Prompt.id)
        .limit(SHOWN)
    )
    decided = session.execute(
        select(Prompt, User)
        .outerjoin(User, User.id == Prompt.pii_decided_by)
        .where(Prompt.study_id == study.id, Prompt.pii_decided_at.is_not(None))
        .order_by(Prompt.pii_decided_at.desc(), Prompt.id.desc())
        .limit(SHOWN)
    )
    return PiiQueue(
        held=[HeldPrompt(prompt=prompt, pieces=pieces_of(prompt)) for prompt in held],
        total=held_count(session, study),
        decided=[(prompt, user) for prompt, user in decided],
    )


def spans_of(prompt: Prompt) -> list[Span]:
    return [Span(item["kind"], item["start"], item["end"]) for item in prompt.pii_spans or ()]


def first_text(prompt: Prompt) -> str:
    """The prompt's text as it came: what its spans count in."""
    return prompt.text if prompt.original is None else str(prompt.original["text"])


def pieces_of(prompt: Prompt) -> list[Piece]:
    """The prompt's first text, cut where something was found."""
    text = first_text(prompt)
    pieces: list[Piece] = []
    at = 0
    for number, span in enumerate(spans_of(prompt)):
        pieces.append(Piece(text[at : span.start]))
        pieces.append(Piece(text[span.start : span.end], span.kind, number))
        at = span.end
    return [piece for piece in [*pieces, Piece(text[at:])] if piece.text]


def decide(
    session: Session,
    study: Study,
    user: User,
    prompt_id: int,
    decision: str,
    *,
    chosen: Collection[int] | None = None,
    also: str = "",
) -> Prompt:
    """Redact, clear or drop a held prompt.

    Redacting takes out the found passages whose numbers are `chosen` (None: all of them) and each
    line of `also`, in the text and in what it was made of; the first text is kept beside it. Raises
    NotFound, Conflict if the prompt is not held, Invalid if there is nothing to take out.
    """
    state = DECISIONS.get(decision)
    if state is None:
        raise Invalid("Choose to redact, clear or drop the prompt.")
    prompt = _find(session, study, prompt_id)
    if prompt.pii_state is not PiiState.held:
        raise Conflict(f"Prompt {prompt.id} was {prompt.pii_state.value} in the meantime.")
    if state is PiiState.redacted:
        _redact(prompt, chosen, also)
    prompt.pii_state = state
    prompt.pii_decided_by = user.id
    prompt.pii_decided_at = func.now()
    session.flush()
    return prompt


def undo(session: Session, study: Study, prompt_id: int) -> Prompt:
    """Hold a prompt again, with the text that it came with. Raises NotFound, Conflict."""
    prompt = _find(session, study, prompt_id)
    if prompt.pii_decided_at is None:
        raise Conflict(f"Nothing was decided about prompt {prompt.id}.")
    if prompt.original is not None:
        prompt.text = prompt.original["text"]
        prompt.constraint_text = prompt.original["constraint_text"]
        prompt.few_shot = prompt.original["few_shot"]
        prompt.original = None
    prompt.pii_state = PiiState.held
    prompt.pii_decided_by = prompt.pii_decided_at = None
    session.flush()
    return prompt


def _find(session: Session, study: Study, prompt_id: int) -> Prompt:
    prompt = session.scalar(
        select(Prompt)
        .where(Prompt.id == prompt_id, Prompt.study_id == study.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if prompt is None:
        raise NotFound("There is no such prompt in this study.")
    return prompt


def _redact(prompt: Prompt, chosen: Collection[int] | None, also: str) -> None:
    spans = [
        span for number, span in enumerate(spans_of(prompt)) if chosen is None or number in chosen
    ]
    values = placeholders(prompt.text, spans)
    passages = [line.strip() for line in also.splitlines() if line.strip()]
    if len(passages) > MAX_ALSO:
        raise Invalid(f"At most {MAX_ALSO} further passages can be taken out of one prompt.")
    for passage in passages:
        if passage not in prompt.text:
            raise Invalid(f"“{passage[:80]}” is not in the prompt.")
        values.setdefault(passage, "[removed]")
    if not values:
        raise Invalid("Choose at least one passage to take out, or clear the prompt.")
    prompt.original = {
        "text": prompt.text,
        "constraint_text": prompt.constraint_text,
        "few_shot": prompt.few_shot,
    }
    prompt.text = redact(prompt.text, values)
    if prompt.constraint_text is not None:
        prompt.constraint_text = redact(prompt.constraint_text, values)
    if prompt.few_shot is not None:
        prompt.few_shot = _redact_parts(prompt.few_shot, values)


def _redact_parts(part: Any, values: Mapping[str, str]) -> Any:
    if isinstance(part, str):
        return redact(part, values)
    if isinstance(part, list):
        return [_redact_parts(item, values) for item in part]
    if isinstance(part, dict):
        return {key: _redact_parts(item, values) for key, item in part.items()}
    return part


# What the kinds are called on the screen.
WORDS = dict(
    zip(
        KINDS,
        (
            "key or password",
            "e-mail",
            "IBAN",
            "card number",
            "social security number",
            "IP address",
            "telephone",
            "address",
            "name",
        ),
        strict=True,
    )
)
