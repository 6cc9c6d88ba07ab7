"""Studies, people, prompts, completions, batches and labels for tests, made by the real services
where there is one. Every function flushes and none commits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import (
    Assignment,
    Batch,
    Completion,
    LabelTask,
    Membership,
    Policy,
    PolicyKind,
    Pool,
    Prompt,
    Purpose,
    Role,
    SourceUser,
    Split,
    Study,
    User,
)
from app.services import assignments, label_queue, labels, people
from app.services.batches import create_demonstration_batch, create_ranking_batch
from app.services.prompts import text_sha256
from app.services.studies import create_study

PASSWORD = "plumbline"
_numbers = count(1)


def make_study(
    session: Session, name: str = "A study", *, slug: str | None = None, rehearsal: bool = False
) -> Study:
    """A study whose key is its slug: a prompt lies in the same split in every run of a test."""
    study = create_study(session, name=name, slug=slug, rehearsal=rehearsal, created_by=None)
    study.split_key = study.slug
    session.flush()
    return study


def make_user(
    session: Session,
    username: str | None = None,
    *,
    administrator: bool = False,
    simulated: bool = False,
) -> User:
    """A user who can sign in with PASSWORD. Hashing it takes some milliseconds."""
    return people.create_user(
        session,
        username=username or f"user-{next(_numbers)}",
        password=PASSWORD,
        administrator=administrator,
        simulated=simulated,
    )


def make_labeler(
    session: Session,
    study: Study,
    username: str | None = None,
    *,
    pool: Pool = Pool.training,
    simulated: bool = False,
) -> Membership:
    """A new user's membership as a labeler of the pool, with its study and user loaded."""
    role = Role.labeler if pool is Pool.training else Role.heldout_labeler
    user = make_user(session, username, simulated=simulated)
    membership = people.add_member(session, study, user, role)
    membership.study, membership.user = study, user
    return membership


def make_labelers(session: Session, study: Study, count: int) -> list[Membership]:
    """Many labelers of the training pool, quickly: they share the first one's password hash."""
    first = make_user(session)
    users = [first] + [
        User(username=f"user-{next(_numbers)}", password_hash=first.password_hash)
        for _ in range(count - 1)
    ]
    session.add_all(users)
    session.flush()
    memberships = [people.add_member(session, study, user, Role.labeler) for user in users]
    for membership, user in zip(memberships, users, strict=True):
        membership.study, membership.user = study, user
    return memberships


def make_researcher(session: Session, study: Study, username: str | None = None) -> User:
    user = make_user(session, username)
    people.add_member(session, study, user, Role.researcher)
    return user


def make_prompt(
    session: Session,
    study: Study,
    text: str | None = None,
    *,
    split: Split = Split.train,
    closed_domain: bool | None = None,
    constraint_text: str | None = None,
    external_id: str | None = None,
) -> Prompt:
    """A prompt of the split's one source user."""
    name = f"source {split.value}"
    source = session.scalar(
        select(SourceUser).where(SourceUser.study_id == study.id, SourceUser.name == name)
    )
    if source is None:
        source = SourceUser(study_id=study.id, name=name, split=split)
        session.add(source)
        session.flush()
    text = text or f"Name the color number {next(_numbers)} of the rainbow."
    prompt = Prompt(
        study_id=study.id,
        source_user_id=source.id,
        split=split,
        text=text,
        text_sha256=text_sha256(text),
        external_id=external_id,
        closed_domain=closed_domain,
        constraint_text=constraint_text,
    )
    session.add(prompt)
    session.flush()
    return prompt


def make_policy(session: Session, study: Study, label: str = "sft") -> Policy:
    """An external policy, or the study's one of that label."""
    policy = session.scalar(select(Policy).where(Policy.study_id == study.id, Policy.name == label))
    if policy is None:
        policy = Policy(study_id=study.id, name=label, label=label, kind=PolicyKind.external)
        session.add(policy)
        session.flush()
    return policy


def make_completions(
    session: Session, prompt: Prompt, texts: Sequence[str] | int = 4, *, score: float | None = None
) -> list[Completion]:
    """Completions of the prompt, each by a policy of its own: policy-0, policy-1, …"""
    if isinstance(texts, int):
        texts = [f"Completion number {next(_numbers)}." for _ in range(texts)]
    study = session.get_one(Study, prompt.study_id)
    completions = [
        Completion(
            study_id=study.id,
            prompt_id=prompt.id,
            policy_id=make_policy(session, study, f"policy-{place}").id,
            text=text,
            score=score,
        )
        for place, text in enumerate(texts)
    ]
    session.add_all(completions)
    session.flush()
    return completions


def make_demonstration_batch(
    session: Session,
    study: Study,
    prompts: Sequence[Prompt] | int = 1,
    *,
    labels_wanted: int = 1,
    round_id: int | None = None,
    lease_minutes: int = 60,
) -> Batch:
    if isinstance(prompts, int):
        prompts = [make_prompt(session, study) for _ in range(prompts)]
    return create_demonstration_batch(
        session,
        study,
        name="demonstrations",
        prompts=[prompt.id for prompt in prompts],
        labels_per_task=labels_wanted,
        round_id=round_id,
        lease_minutes=lease_minutes,
    )


def make_ranking_batch(
    session: Session,
    study: Study,
    prompts: Sequence[Prompt] | int = 1,
    *,
    k: int = 4,
    labels_wanted: int = 1,
    pool: Pool = Pool.training,
    purpose: Purpose | None = None,
    rate_completions: bool = True,
    round_id: int | None = None,
) -> Batch:
    """Rankings of each prompt's completions; a prompt without any gets k."""
    if isinstance(prompts, int):
        prompts = [make_prompt(session, study) for _ in range(prompts)]
    ids: dict[int, list[int]] = {}
    for prompt in prompts:
        known = list(
            session.scalars(
                select(Completion.id)
                .where(Completion.prompt_id == prompt.id)
                .order_by(Completion.id)
            )
        )
        ids[prompt.id] = known or [c.id for c in make_completions(session, prompt, k)]
    default = Purpose.training if pool is Pool.training else Purpose.evaluation
    return create_ranking_batch(
        session,
        study,
        name="rankings",
        completions=ids,
        labels_wanted=labels_wanted,
        pool=pool,
        purpose=purpose or default,
        rate_completions=rate_completions,
        round_id=round_id,
    )


def tasks_of(session: Session, batch: Batch) -> list[LabelTask]:
    return list(
        session.scalars(
            select(LabelTask).where(LabelTask.batch_id == batch.id).order_by(LabelTask.id)
        )
    )


def take_next(session: Session, membership: Membership) -> Assignment:
    """The labeler's next assignment, as its page would load it. Fails when there is no work."""
    leased = label_queue.lease_next(session, membership)
    assert leased is not None, "there is no work for this labeler"
    user = session.get_one(User, membership.user_id)
    return assignments.find_assignment(session, user, leased.public_id)


def give_label(
    session: Session, membership: Membership, fields: dict[str, str] | None = None
) -> Assignment:
    """Take the next assignment and submit it: a text, or the completions in the order of their ids.

    `fields` replaces or adds form fields.
    """
    assignment = take_next(session, membership)
    by_id = sorted(assignment.items, key=lambda item: item.completion_id)
    form = {f"tier_{item.letter}": str(place) for place, item in enumerate(by_id, start=1)}
    form = form or {"text": f"Demonstration number {next(_numbers)}."}
    labels.submit(
        session, assignment, session.get_one(User, membership.user_id), form | (fields or {})
    )
    return assignment
