"""Samplings of external systems: choose the prompts, start, cancel and retry, say how far it is.

    queued → running → finished | failed | cancelled
       ↑        │                    │
       ├────────┘ the worker stopped │
       └─────────────────────────────┘ retry: what is there is kept, the rest is asked for

What a worker does with one is in the module `queue`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import (
    BigInteger,
    Select,
    func,
    insert,
    literal,
    select,
    true,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db import enqueue
from app.errors import Conflict, Invalid, NotFound
from app.models import (
    Batch,
    Completion,
    ExternalSystem,
    LabelKind,
    LabelTask,
    Prompt,
    RequestState,
    Sampling,
    SamplingRequest,
    SamplingState,
    Split,
    Study,
    User,
)
from app.services.batch_views import find_batch
from app.services.external.settings import Blank, read
from app.services.usable import usable_prompt

MOST: Final = 1_000_000  # requests of one sampling
LISTED: Final = 20
ENDED: Final = (SamplingState.finished, SamplingState.failed, SamplingState.cancelled)


class NothingToSample(Conflict):
    """Every prompt that was chosen has as many completions as were asked for."""


class Choice(BaseModel):
    """Which prompts, and how many completions each shall have of the system, those it has counted.

    Those of a batch, or `count` (None: all) of the splits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: Annotated[Annotated[int, Field(ge=1, lt=2**63)] | None, Blank] = None
    splits: tuple[Split, ...] = ()
    count: Annotated[Annotated[int, Field(ge=1, le=MOST)] | None, Blank] = None
    completions: int = Field(default=1, ge=1, le=100)

    @property
    def words(self) -> str:
        """What was asked for, in words."""
        of = f"batch {self.batch}" if self.batch is not None else " and ".join(self.splits)
        prompts = f"{self.count:,} prompts" if self.count is not None else "all prompts"
        plural = "" if self.completions == 1 else "s"
        return f"{self.completions} completion{plural} each for {prompts} of {of}"


LABELS: Final = {
    "batch": "Batch",
    "splits": "Splits",
    "count": "Prompts",
    "completions": "Completions a prompt",
}


def read_choice(values: Mapping[str, Any]) -> Choice:
    """The choice, or Invalid with the fields and reasons in plain words."""
    return read(Choice, values, LABELS)


@dataclass(frozen=True, kw_only=True)
class Progress:
    done: int = 0
    failed: int = 0
    waiting: int = 0

    @property
    def total(self) -> int:
        return self.done + self.failed + self.waiting

    @property
    def lacking(self) -> int:
        return self.failed + self.waiting


@dataclass(frozen=True, kw_only=True)
class SamplingView:
    """A sampling for a page: what was asked, how far it is, the first problems by prompt id."""

    sampling: Sampling
    words: str
    progress: Progress
    problems: Sequence[tuple[int, str]]

    @property
    def under_way(self) -> bool:
        return self.sampling.state not in ENDED

    @property
    def can_retry(self) -> bool:
        return not self.under_way and self.progress.lacking > 0


def start_sampling(
    session: Session,
    study: Study,
    system: ExternalSystem,
    choice: Choice,
    *,
    created_by: User | None = None,
) -> Sampling:
    """A queued sampling; a worker hears of it at the commit.

    Prompts that are withdrawn or held back for personal data never leave the study. Raises
    NothingToSample, Conflict while another of the system is under way, Invalid where no prompt is
    chosen, NotFound for a batch that the study does not have.
    """
    prompts = _chosen(session, study, choice)
    chosen = session.scalar(select(func.count()).select_from(prompts.subquery())) or 0
    if not chosen:
        raise Invalid("No prompt that can be used is among those chosen.")
    if chosen * choice.completions > MOST:
        raise Invalid(f"A sampling asks for {MOST:,} completions at most.")
    sampling = Sampling(
        study_id=study.id,
        policy_id=system.policy_id,
        choice=choice.model_dump(mode="json"),
        created_by=created_by.id if created_by else None,
    )
    try:
        with session.begin_nested():
            session.add(sampling)
            session.flush()
    except IntegrityError as error:
        raise Conflict("This system is being sampled: let it finish, or cancel that.") from error
    if not _add_requests(session, sampling, prompts, choice.completions):
        session.delete(sampling)
        session.flush()
        raise NothingToSample(
            f"Each of the {chosen:,} prompts has {choice.completions} of its completions already."
        )
    enqueue(session, "sample_system", sampling.id)
    return sampling


def _chosen(session: Session, study: Study, choice: Choice) -> Select[int]:
    """Ids of the prompts, in an order as good as random that is the same each time."""
    prompts = select(Prompt.id).where(Prompt.study_id == study.id, usable_prompt())
    if choice.batch is not None:
        batch = find_batch(session, study, choice.batch)
        tasks = select(LabelTask.prompt_id).where(LabelTask.batch_id == batch.id)
        prompts = prompts.where(Prompt.id.in_(tasks))
    elif choice.splits:
        prompts = prompts.where(Prompt.split.in_(choice.splits))
    else:
        raise Invalid("Choose a batch, or at least one split.")
    return prompts.order_by(Prompt.text_sha256).limit(choice.count)


def _add_requests(
    session: Session, sampling: Sampling, prompts: Select[int], completions: int
) -> int:
    """A request for each completion that a prompt lacks. Returns how many."""
    chosen = prompts.subquery()
    has = (
        select(func.count())
        .where(
            Completion.prompt_id == chosen.c.id,
            Completion.policy_id == sampling.policy_id,
        )
        .correlate(chosen)
        .scalar_subquery()
    )
    indices = func.generate_series(has, completions - 1)
    index = indices.table_valued("sample_index").render_derived().lateral()
    rows = select(
        literal(sampling.id, BigInteger),
        literal(sampling.study_id, BigInteger),
        chosen.c.id,
        index.c.sample_index,
    ).select_from(chosen.join(index, true()))
    columns = ["sampling_id", "study_id", "prompt_id", "sample_index"]
    session.execute(insert(SamplingRequest).from_select(columns, rows))
    return progress_of(session, [sampling])[sampling.id].total


def find_sampling(session: Session, study: Study, sampling_id: int) -> Sampling:
    """Raises NotFound."""
    found = session.get(Sampling, sampling_id) if 0 < sampling_id < 2**63 else None
    if found is None or found.study_id != study.id:
        raise NotFound("There is no such sampling in this study.")
    return found


def samplings_of(session: Session, policy_id: int) -> Sequence[SamplingView]:
    """The system's last samplings, newest first."""
    query = select(Sampling).where(Sampling.policy_id == policy_id)
    found = session.scalars(query.order_by(Sampling.id.desc()).limit(LISTED)).all()
    progress = progress_of(session, found)
    return [
        SamplingView(
            sampling=sampling,
            words=Choice(**sampling.choice).words,
            progress=progress[sampling.id],
            problems=problems_of(session, sampling) if progress[sampling.id].failed else (),
        )
        for sampling in found
    ]


def batches_to_choose(session: Session, study: Study) -> list[tuple[int, str]]:
    """The study's batches about prompts that are there, newest first: id and name."""
    rows = session.execute(
        select(Batch.id, Batch.name)
        .where(Batch.study_id == study.id, Batch.kind != LabelKind.prompt)
        .order_by(Batch.id.desc())
        .limit(200)
    )
    return [(batch_id, name) for batch_id, name in rows]


def progress_of(session: Session, samplings: Collection[Sampling]) -> dict[int, Progress]:
    """How far each is, by its id."""
    rows = session.execute(
        select(SamplingRequest.sampling_id, SamplingRequest.state, func.count())
        .where(SamplingRequest.sampling_id.in_([sampling.id for sampling in samplings]))
        .group_by(SamplingRequest.sampling_id, SamplingRequest.state)
    )
    counts: dict[int, dict[str, int]] = {sampling.id: {} for sampling in samplings}
    for sampling_id, state, count in rows:
        counts[sampling_id][state.value] = count
    return {sampling_id: Progress(**found) for sampling_id, found in counts.items()}


def problems_of(session: Session, sampling: Sampling, limit: int = LISTED) -> list[tuple[int, str]]:
    """The first requests without an answer: the prompt's id, and why."""
    rows = session.execute(
        select(SamplingRequest.prompt_id, SamplingRequest.problem)
        .where(
            SamplingRequest.sampling_id == sampling.id,
            SamplingRequest.state == RequestState.failed,
        )
        .order_by(SamplingRequest.id)
        .limit(limit)
    )
    return [(prompt_id, problem or "") for prompt_id, problem in rows]


def cancel(session: Session, sampling: Sampling) -> None:
    """Stop it; what came is kept. Raises Conflict if it is over."""
    session.refresh(sampling, with_for_update=True)
    if sampling.state in ENDED:
        raise Conflict(f"The sampling is {sampling.state.value} already.")
    _end(sampling, SamplingState.cancelled)
    session.flush()


def _end(sampling: Sampling, state: SamplingState) -> None:
    sampling.state, sampling.finished_at = state, func.now()
    sampling.lease_until = sampling.note = None


def retry(session: Session, sampling: Sampling) -> None:
    """Ask again for what is not there. Raises Conflict if it is under way, or has it all."""
    session.refresh(sampling, with_for_update=True)
    if sampling.state not in ENDED:
        raise Conflict(f"The sampling is {sampling.state.value}: it goes on by itself.")
    session.execute(
        update(SamplingRequest)
        .where(
            SamplingRequest.sampling_id == sampling.id,
            SamplingRequest.state == RequestState.failed,
        )
        .values(state=RequestState.waiting, problem=None, tries=0)
        .execution_options(synchronize_session=False)
    )
    if not progress_of(session, [sampling])[sampling.id].waiting:
        raise Conflict("All that was asked for is there: nothing to retry.")
    sampling.state = SamplingState.queued
    sampling.error = sampling.note = sampling.finished_at = None
    sampling.fruitful_attempt = sampling.attempt
    try:
        with session.begin_nested():
            session.flush()
    except IntegrityError as error:
        raise Conflict("Another sampling of this system is under way.") from error
    enqueue(session, "sample_system", sampling.id)
