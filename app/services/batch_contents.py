"""What goes into a batch: prompts that nobody has demonstrated, completions side by side."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import Invalid
from app.models import (
    Completion,
    LabelKind,
    LabelTask,
    LabelTaskState,
    Policy,
    Prompt,
    Purpose,
    Split,
    Study,
)

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
    session: Session,
    study: Study,
    policies: Sequence[Policy],
    *,
    splits: Sequence[Split],
    at_least: int = 1,
) -> dict[int, list[int]]:
    """Ids of the newest completion that each of the policies gave, by prompt id.

    Prompts that fewer than `at_least` of the policies have completed are left out.
    """
    newest = (
        select(Completion.prompt_id, Completion.policy_id, func.max(Completion.id).label("id"))
        .join(Completion.prompt)
        .where(
            Completion.study_id == study.id,
            Completion.policy_id.in_([policy.id for policy in policies]),
            Prompt.split.in_(splits),
        )
        .group_by(Completion.prompt_id, Completion.policy_id)
        .order_by(Completion.prompt_id, Completion.policy_id)
    )
    found: dict[int, list[int]] = {}
    for prompt_id, _policy_id, completion_id in session.execute(newest):
        found.setdefault(prompt_id, []).append(completion_id)
    return {prompt_id: ids for prompt_id, ids in found.items() if len(ids) >= at_least}
