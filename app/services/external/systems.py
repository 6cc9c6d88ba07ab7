"""A study's external systems: adding one, changing how it is reached, finding it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session, joinedload

from app.errors import Conflict, Invalid, NotFound
from app.models import (
    Completion,
    ExternalSystem,
    Policy,
    PolicyKind,
    Prompt,
    Sampling,
    Split,
    Study,
    User,
)
from app.services.batch_contents import DEMONSTRATIONS
from app.services.external.settings import LABELS, TRANSPORT, SystemSettings
from app.services.importing import columns
from app.services.importing.problems import RowProblem
from app.services.round_config import RL_INIT
from app.services.usable import usable_prompt

OWN: Final = frozenset({"base", "sft", RL_INIT, "ppo", "ppo-ptx", "rm", DEMONSTRATIONS})
IDS: Final = 2**63


@dataclass(frozen=True, kw_only=True)
class SystemSummary:
    """A system with what it has completed so far, and its last sampling."""

    policy: Policy
    settings: SystemSettings
    completions: int
    prompts: int  # that it has completed
    last: Sampling | None


def settings_of(system: ExternalSystem) -> SystemSettings:
    return SystemSettings(**system.settings)


def add_system(
    session: Session,
    study: Study,
    name: str,
    settings: SystemSettings,
    *,
    created_by: User | None = None,
) -> ExternalSystem:
    """A new external policy with an endpoint. Raises Invalid for its name, Conflict if taken."""
    policy = Policy(
        study_id=study.id, name=_free_name(session, study, name), kind=PolicyKind.external
    )
    policy.label = policy.name
    session.add(policy)
    session.flush()
    system = ExternalSystem(
        policy_id=policy.id,
        study_id=study.id,
        settings=settings.model_dump(mode="json"),
        created_by=created_by.id if created_by else None,
    )
    system.policy = policy
    session.add(system)
    session.flush()
    return system


def _free_name(session: Session, study: Study, name: str) -> str:
    try:
        found = columns.short_name({"name": name}, ("name",))
    except RowProblem as problem:
        raise Invalid(f"Name: {str(problem).removeprefix('name ')}.") from None
    if not found:
        raise Invalid("Name: it is missing.")
    if found.lower() in OWN:
        raise Invalid(f"Name: {found} is what the study calls a policy of its own; choose another.")
    # One at a time, so that two of the same name meet here and not at the constraint.
    session.refresh(study, ["id"], with_for_update={"key_share": True})
    taken = select(Policy.id).where(Policy.study_id == study.id, Policy.name == found)
    if session.scalar(taken) is not None:
        raise Conflict(f"The study has a policy named {found} already; choose another name.")
    return found


def update_system(session: Session, system: ExternalSystem, settings: SystemSettings) -> None:
    """Change the settings; what shapes the answers only while there are none.

    A policy whose completions were sampled in two ways would be two systems under one name. Raises
    Conflict.
    """
    _lock(session, system)
    old, new = settings_of(system).model_dump(mode="json"), settings.model_dump(mode="json")
    changed = [name for name in new if new[name] != old[name] and name not in TRANSPORT]
    if changed and is_sampled(session, system):
        names = ", ".join(LABELS[name] for name in changed)
        raise Conflict(
            f"{names}: it was sampled already, and a policy answers in one way. Add another "
            "system for the new settings."
        )
    system.settings = new
    session.flush()


def _lock(session: Session, system: ExternalSystem) -> None:
    row = select(ExternalSystem.settings).where(ExternalSystem.policy_id == system.policy_id)
    session.execute(row.with_for_update())
    session.refresh(system, ["settings"])


def is_sampled(session: Session, system: ExternalSystem) -> bool:
    """Whether it was ever asked for completions."""
    asked = select(Sampling.id).where(Sampling.policy_id == system.policy_id).limit(1)
    return session.scalar(asked) is not None


def find_system(session: Session, study: Study, policy_id: int) -> ExternalSystem:
    """The system, with its policy. Raises NotFound."""
    found = session.scalar(
        select(ExternalSystem)
        .where(ExternalSystem.policy_id == policy_id, ExternalSystem.study_id == study.id)
        .options(joinedload(ExternalSystem.policy))
    )
    if found is None:
        raise NotFound("There is no such external system in this study.")
    return found


def system_named(session: Session, study: Study, name: str) -> ExternalSystem:
    """The same by its name. Raises NotFound."""
    found = session.scalar(
        select(ExternalSystem)
        .join(Policy, Policy.id == ExternalSystem.policy_id)
        .where(ExternalSystem.study_id == study.id, Policy.name == name)
        .options(joinedload(ExternalSystem.policy))
    )
    if found is None:
        raise NotFound(f"{study.name} has no external system named {name}.")
    return found


def systems_of(session: Session, study: Study) -> Sequence[SystemSummary]:
    """The study's systems, by name, in three queries."""
    systems = session.scalars(
        select(ExternalSystem)
        .join(Policy, Policy.id == ExternalSystem.policy_id)
        .where(ExternalSystem.study_id == study.id)
        .options(joinedload(ExternalSystem.policy))
        .order_by(Policy.name)
    ).all()
    ids = [system.policy_id for system in systems]
    counts = {
        policy_id: (completions, prompts)
        for policy_id, completions, prompts in session.execute(
            select(
                Completion.policy_id,
                func.count(),
                func.count(Completion.prompt_id.distinct()),
            )
            .where(Completion.policy_id.in_(ids))
            .group_by(Completion.policy_id)
        )
    }
    last = {
        sampling.policy_id: sampling
        for sampling in session.scalars(
            select(Sampling)
            .where(Sampling.policy_id.in_(ids))
            .ext(distinct_on(Sampling.policy_id))
            .order_by(Sampling.policy_id, Sampling.id.desc())
        )
    }
    return [
        SystemSummary(
            policy=system.policy,
            settings=settings_of(system),
            completions=counts.get(system.policy_id, (0, 0))[0],
            prompts=counts.get(system.policy_id, (0, 0))[1],
            last=last.get(system.policy_id),
        )
        for system in systems
    ]


def remove_system(session: Session, system: ExternalSystem) -> None:
    """Take away a system that nothing was sampled of. Raises Conflict."""
    _lock(session, system)
    policy_id = system.policy_id
    known = select(Completion.id).where(Completion.policy_id == policy_id).limit(1)
    if is_sampled(session, system) or session.scalar(known) is not None:
        raise Conflict("It was sampled already: its completions, and what was asked, stay.")
    policy = session.get_one(Policy, policy_id)
    session.delete(system)
    session.flush()
    session.delete(policy)
    session.flush()


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Of a split: prompts that can be used, how many the system has completed, and how often."""

    split: Split
    prompts: int
    completed: int
    completions: int


def coverage_of(session: Session, system: ExternalSystem) -> list[Coverage]:
    """What the system has completed, by split."""
    own = (
        select(Completion.prompt_id, func.count().label("completions"))
        .where(Completion.policy_id == system.policy_id)
        .group_by(Completion.prompt_id)
        .subquery()
    )
    rows = session.execute(
        select(
            Prompt.split,
            func.count(),
            func.count(own.c.prompt_id),
            func.coalesce(func.sum(own.c.completions), 0),
        )
        .outerjoin(own, own.c.prompt_id == Prompt.id)
        .where(Prompt.study_id == system.study_id, usable_prompt())
        .group_by(Prompt.split)
    )
    found = {
        split: Coverage(
            split=split, prompts=prompts, completed=completed, completions=int(completions)
        )
        for split, prompts, completed, completions in rows
    }
    nothing = {"prompts": 0, "completed": 0, "completions": 0}
    return [found.get(split) or Coverage(split=split, **nothing) for split in Split]


def newest_completions(
    session: Session, system: ExternalSystem, limit: int = 5
) -> Sequence[Completion]:
    """With their prompts."""
    return session.scalars(
        select(Completion)
        .where(Completion.policy_id == system.policy_id)
        .options(joinedload(Completion.prompt))
        .order_by(Completion.id.desc())
        .limit(limit)
    ).all()
