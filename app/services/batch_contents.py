"""What goes into a batch: prompts that nobody has demonstrated, completions side by side."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.errors import Invalid
from app.models import (
    Completion,
    Demonstration,
    LabelKind,
    LabelTask,
    LabelTaskState,
    Policy,
    PolicyKind,
    Prompt,
    Purpose,
    Split,
    Study,
)
from app.services.bulk import among
from app.services.usable import usable_prompt

DEMONSTRATIONS = "demonstrations"  # the policy whose completions are labelers' demonstrations

# Demonstrations and training rankings also cover valid prompts: on those the models are checked.
# Evaluations stay on the users that no training has seen.
DEFAULT_SPLITS = {
    Purpose.training: (Split.train, Split.valid),
    Purpose.evaluation: (Split.test,),
}


def fresh_prompts(
    session: Session, study: Study, purpose: Purpose, count: int, splits: Sequence[Split]
) -> list[int]:
    """Ids of `count` prompts without a demonstration task. Raises Invalid if there are fewer.

    They come in the order of their content hash: as good as random, so that a batch is no run of
    neighbours in a file, and the same on every machine.
    """
    if count < 1:
        raise Invalid("A batch has at least one prompt.")
    taken = select(LabelTask.id).where(
        LabelTask.prompt_id == Prompt.id,
        LabelTask.kind == LabelKind.demonstration,
        LabelTask.state != LabelTaskState.closed,
    )
    fresh = (
        select(Prompt.id)
        .where(
            Prompt.study_id == study.id,
            Prompt.split.in_(splits or DEFAULT_SPLITS[purpose]),
            usable_prompt(),
            ~taken.exists(),
        )
        .order_by(Prompt.text_sha256)
        .limit(count)
    )
    found = list(session.scalars(fresh))
    if len(found) < count:
        raise Invalid(
            f"{len(found)} prompts of the chosen splits have no demonstration task yet; "
            f"{count} were asked for."
        )
    return found


def policies_with_completions(session: Session, study: Study) -> list[tuple[Policy, int]]:
    """The study's policies that have completed prompts, with how many, by name."""
    prompts = func.count(Completion.prompt_id.distinct())
    rows = session.execute(
        select(Policy, prompts)
        .join(Completion, Completion.policy_id == Policy.id)
        .where(Policy.study_id == study.id)
        .group_by(Policy.id)
        .order_by(Policy.name)
    )
    return [(policy, count) for policy, count in rows]


def completions_by_prompt(
    session: Session, study: Study, policies: Sequence[Policy], *, splits: Sequence[Split]
) -> dict[int, list[int]]:
    """Ids of the newest completion that each of the policies gave, by id of a usable prompt."""
    newest = (
        select(Completion.prompt_id, Completion.policy_id, func.max(Completion.id).label("id"))
        .join(Completion.prompt)
        .where(
            Completion.study_id == study.id,
            Completion.policy_id.in_([policy.id for policy in policies]),
            Prompt.split.in_(splits),
            usable_prompt(),
        )
        .group_by(Completion.prompt_id, Completion.policy_id)
        .order_by(Completion.prompt_id, Completion.policy_id)
    )
    found: dict[int, list[int]] = {}
    for prompt_id, _policy_id, completion_id in session.execute(newest):
        found.setdefault(prompt_id, []).append(completion_id)
    return found


def newest_demonstrations(
    session: Session, study: Study, prompts: Collection[int]
) -> dict[int, int]:
    """The id of the newest current training demonstration of each of the prompts that has one."""
    newest = (
        select(Demonstration.prompt_id, func.max(Demonstration.id))
        .where(
            Demonstration.study_id == study.id,
            Demonstration.purpose == Purpose.training,
            Demonstration.superseded_at.is_(None),
            among(Demonstration.prompt_id, prompts),
        )
        .group_by(Demonstration.prompt_id)
    )
    return dict(iter(session.execute(newest)))


def demonstrations_policy(session: Session, study: Study) -> Policy:
    """The external policy DEMONSTRATIONS of a study that has ranked some."""
    policy = select(Policy).where(Policy.study_id == study.id, Policy.name == DEMONSTRATIONS)
    return session.scalars(policy).one()


def ranked_as_completions(
    session: Session, study: Study, demonstrations: Collection[int]
) -> dict[int, int]:
    """The id of the completion that stands for each of these demonstrations; made where missing.

    They belong to the external policy DEMONSTRATIONS.
    """
    if not demonstrations:
        return {}
    session.execute(
        upsert(Policy).on_conflict_do_nothing(),
        {
            "study_id": study.id,
            "name": DEMONSTRATIONS,
            "label": DEMONSTRATIONS,
            "kind": PolicyKind.external,
        },
    )
    policy_id = select(Policy.id).where(Policy.study_id == study.id, Policy.name == DEMONSTRATIONS)
    texts = select(
        Demonstration.study_id,
        Demonstration.prompt_id,
        policy_id.scalar_subquery(),
        Demonstration.text,
        Demonstration.id,
    ).where(Demonstration.study_id == study.id, among(Demonstration.id, demonstrations))
    columns = ["study_id", "prompt_id", "policy_id", "text", "demonstration_id"]
    session.execute(upsert(Completion).from_select(columns, texts).on_conflict_do_nothing())
    made = select(Completion.demonstration_id, Completion.id).where(
        among(Completion.demonstration_id, demonstrations)
    )
    return {key: completion_id for key, completion_id in session.execute(made) if key is not None}
