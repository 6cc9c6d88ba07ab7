"""Samplings as a queue of rows: what a worker claims, fetches, and stores.

A claim raises `attempt`, the fencing token; see services.runs. A completion and the end of its
request are one transaction, so that none is stored twice whoever dies when.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CursorResult,
    String,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from app.config import get_settings
from app.errors import Conflict
from app.models import (
    Completion,
    ExternalSystem,
    Prompt,
    RequestState,
    Sampling,
    SamplingRequest,
    SamplingState,
)
from app.services.bulk import among
from app.services.external.endpoint import Answer
from app.services.external.settings import SystemSettings
from app.services.external.systems import settings_of
from app.services.usable import usable_prompt

AT_ONCE: Final = 2  # samplings: the light worker has other things to do beside them
CLAIMS: Final = 0x706C756D62  # the advisory lock under which they are counted
DEATHS: Final = 3  # of workers in a row that stored nothing


class SamplingGone(Conflict):
    """The sampling was taken over, or cancelled."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    sampling_id: int
    attempt: int
    settings: SystemSettings


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One request that waits for its turn."""

    request_id: int
    prompt: str
    sample_index: int
    tries: int


def claim(session: Session, sampling_id: int) -> Claim | None:
    """Take a sampling that is due; None if it is not, or if AT_ONCE others are under way."""
    session.execute(select(func.pg_advisory_xact_lock(CLAIMS)))
    running = select(func.count()).where(
        Sampling.state == SamplingState.running, Sampling.lease_until >= func.now()
    )
    if (session.scalar(running) or 0) >= AT_ONCE:
        return None
    attempt = session.scalar(
        update(Sampling)
        .where(Sampling.id == sampling_id, _is_due())
        .values(
            state=SamplingState.running,
            attempt=Sampling.attempt + 1,
            lease_until=_lease(),
            note=None,
        )
        .returning(Sampling.attempt)
        .execution_options(synchronize_session=False)
    )
    if attempt is None:
        return None
    system = session.scalars(
        select(ExternalSystem)
        .join(Sampling, Sampling.policy_id == ExternalSystem.policy_id)
        .where(Sampling.id == sampling_id)
    ).one()
    return Claim(sampling_id=sampling_id, attempt=attempt, settings=settings_of(system))


def _is_due() -> ColumnElement[bool]:
    return or_(
        Sampling.state == SamplingState.queued,
        (Sampling.state == SamplingState.running) & (Sampling.lease_until < func.now()),
    )


def _lease() -> Any:
    return func.now() + timedelta(seconds=get_settings().run_lease_seconds)


def _write(session: Session, claim: Claim, **values: Any) -> None:
    """Raises SamplingGone for a claimant that was overtaken; else the row is locked."""
    result = session.execute(
        update(Sampling)
        .where(
            Sampling.id == claim.sampling_id,
            Sampling.attempt == claim.attempt,
            Sampling.state == SamplingState.running,
        )
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)
    if result.rowcount != 1:
        raise SamplingGone("The sampling was taken over or cancelled.")


def beat(session: Session, claim: Claim, *, note: str | None) -> None:
    """Go on holding it, and say what it waits for. Raises SamplingGone."""
    _write(session, claim, note=note, lease_until=_lease())


def next_requests(
    session: Session, claim: Claim, limit: int, *, without: Collection[int]
) -> list[Wanted]:
    """Requests that wait, those first that were tried least; `without` those under way.

    A prompt that may not leave the study any more ends its request. Raises SamplingGone.
    """
    _write(session, claim, lease_until=_lease())
    waiting = (
        select(
            SamplingRequest.id,
            Prompt.text,
            SamplingRequest.sample_index,
            SamplingRequest.tries,
            usable_prompt(),
        )
        .join(Prompt, Prompt.id == SamplingRequest.prompt_id)
        .where(
            SamplingRequest.sampling_id == claim.sampling_id,
            SamplingRequest.state == RequestState.waiting,
            ~among(SamplingRequest.id, without),
        )
        .order_by(SamplingRequest.tries, SamplingRequest.id)
        .limit(limit)
    )
    while rows := session.execute(waiting).all():
        _let_go(session, [request_id for request_id, *_, usable in rows if not usable])
        found = [
            Wanted(request_id=request_id, prompt=text, sample_index=index, tries=tries)
            for request_id, text, index, tries, usable in rows
            if usable
        ]
        if found:
            return found
    return []


def _let_go(session: Session, requests: Sequence[int]) -> None:
    if requests:
        reason = "The prompt was withdrawn, or is held back for personal data."
        session.execute(
            update(SamplingRequest)
            .where(among(SamplingRequest.id, requests))
            .values(state=RequestState.failed, problem=reason)
            .execution_options(synchronize_session=False)
        )


def store(
    session: Session,
    claim: Claim,
    *,
    answers: Sequence[tuple[int, Answer]] = (),
    problems: Sequence[tuple[int, str]] = (),
    again: Sequence[int] = (),
) -> None:
    """What became of requests, by their ids: an answer, a problem for good, or another try.

    Raises SamplingGone, with nothing of it stored.
    """
    fruitful = {"fruitful_attempt": claim.attempt} if answers else {}
    _write(session, claim, lease_until=_lease(), **fruitful)
    for request_id, answer in answers:
        _store_answer(session, claim, request_id, answer)
    for request_id, problem in problems:
        session.execute(
            _of(claim, request_id).values(state=RequestState.failed, problem=problem[:1_000])
        )
    if again:
        session.execute(
            update(SamplingRequest)
            .where(SamplingRequest.sampling_id == claim.sampling_id)
            .where(among(SamplingRequest.id, again))
            .values(tries=SamplingRequest.tries + 1)
            .execution_options(synchronize_session=False)
        )


def _of(claim: Claim, request_id: int) -> Any:
    return (
        update(SamplingRequest)
        .where(
            SamplingRequest.id == request_id,
            SamplingRequest.sampling_id == claim.sampling_id,
            SamplingRequest.state == RequestState.waiting,
        )
        .execution_options(synchronize_session=False)
    )


def _store_answer(session: Session, claim: Claim, request_id: int, answer: Answer) -> None:
    source = (
        select(
            SamplingRequest.study_id,
            SamplingRequest.prompt_id,
            Sampling.policy_id,
            SamplingRequest.sample_index,
            literal(answer.text, String),
            literal(answer.finish_reason, String),
            literal(answer.tokens, BigInteger),
        )
        .join(Sampling, Sampling.id == SamplingRequest.sampling_id)
        .where(
            SamplingRequest.id == request_id,
            SamplingRequest.sampling_id == claim.sampling_id,
            SamplingRequest.state == RequestState.waiting,
        )
    )
    columns = [
        "study_id",
        "prompt_id",
        "policy_id",
        "sample_index",
        "text",
        "finish_reason",
        "tokens",
    ]
    made = insert(Completion).from_select(columns, source).returning(Completion.id)
    completion_id = session.scalar(made)
    if completion_id is not None:
        session.execute(
            _of(claim, request_id).values(state=RequestState.done, completion_id=completion_id)
        )


def finish(session: Session, claim: Claim) -> None:
    """Nothing waits any more. Raises SamplingGone."""
    _write(
        session,
        claim,
        state=SamplingState.finished,
        note=None,
        finished_at=func.now(),
        lease_until=None,
    )


def fail(session: Session, claim: Claim, error: str) -> None:
    """The system as a whole does not answer; why, in words. Raises SamplingGone."""
    _write(
        session,
        claim,
        state=SamplingState.failed,
        error=error[:2_000],
        note=None,
        finished_at=func.now(),
        lease_until=None,
    )


def release(session: Session, claim: Claim) -> None:
    """Give it back: the worker stops, another one goes on at once. Raises SamplingGone."""
    _write(
        session,
        claim,
        state=SamplingState.queued,
        fruitful_attempt=claim.attempt,
        note=None,
        lease_until=None,
    )


def due(session: Session) -> list[int]:
    """Samplings to look at; one that outlived workers which stored nothing fails."""
    session.execute(
        update(Sampling)
        .where(
            Sampling.state == SamplingState.running,
            Sampling.lease_until < func.now(),
            Sampling.attempt >= Sampling.fruitful_attempt + DEATHS,
        )
        .values(
            state=SamplingState.failed,
            error=f"The worker stopped {DEATHS} times before a completion came.",
            note=None,
            finished_at=func.now(),
            lease_until=None,
        )
        .execution_options(synchronize_session=False)
    )
    return list(session.scalars(select(Sampling.id).where(_is_due()).order_by(Sampling.id)))
