"""External policies as baselines of a round's blind evaluation.

Their completions are there before the round judges: imported, or sampled from an endpoint. The
prompts that are judged are among those which every baseline has completed.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from app.errors import Invalid
from app.models import Completion, Policy, PolicyKind, Prompt, Split, Study
from app.services.round_context import Context, prompts_of_split
from app.services.usable import usable_prompt


def possible_baselines(session: Session, study: Study) -> list[tuple[str, int]]:
    """Names of the external policies that have completed test prompts, with how many."""
    rows = session.execute(
        select(Policy.name, func.count(Completion.prompt_id.distinct()))
        .join(Completion, Completion.policy_id == Policy.id)
        .join(Completion.prompt)
        .where(
            Policy.study_id == study.id,
            Policy.kind == PolicyKind.external,
            Prompt.split == Split.test,
            usable_prompt(),
        )
        .group_by(Policy.name)
        .order_by(Policy.name)
    )
    return [(name, count) for name, count in rows]


def baselines(context: Context) -> list[Policy]:
    """The round's baselines, in the order in which it names them. Raises Invalid for a stranger."""
    names = list(dict.fromkeys(context.config.baselines))
    found = {
        policy.name: policy
        for policy in context.session.scalars(
            select(Policy).where(
                Policy.study_id == context.study.id,
                Policy.kind == PolicyKind.external,
                Policy.name.in_(names),
            )
        )
    }
    for name in names:
        if name not in found:
            raise Invalid(f"baselines: {context.study.name} has no external policy named {name}.")
    return [found[name] for name in names]


def judged_prompts(context: Context) -> list[int]:
    """The test prompts of the round's evaluation: those that every baseline has completed."""
    return prompts_of_split(
        context,
        Split.test,
        context.config.evaluation_prompts,
        *_completed_by(baselines(context)),
    )


def _completed_by(policies: Sequence[Policy]) -> list[ColumnElement[bool]]:
    return [
        exists().where(Completion.prompt_id == Prompt.id, Completion.policy_id == policy.id)
        for policy in policies
    ]


def check_baselines(context: Context) -> None:
    """Raises Invalid where a baseline is not known, or has not completed what is to be judged."""
    if not context.config.baselines:
        return
    wanted = len(prompts_of_split(context, Split.test, context.config.evaluation_prompts))
    found = len(judged_prompts(context))
    if found < wanted:
        names = ", ".join(context.config.baselines)
        raise Invalid(
            f"The round judges {wanted:,} test prompts, and {found:,} of the test prompts have "
            f"completions of {names}: sample or import the others first, or judge fewer."
        )
