"""Policies of checkpoints, and the best of n of their samples."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.errors import Invalid, NotFound
from app.models import (
    Checkpoint,
    CheckpointKind,
    Completion,
    Policy,
    PolicyKind,
    Pool,
    Purpose,
    Run,
    Split,
    Study,
)
from app.services import outcomes, policies
from app.services.batches import ranking_batch_from_policies
from app.services.round_config import round_config
from tests import factories as make
from trainer.contract import CompletionRecord

MakeCheckpoint = Callable[..., Checkpoint]


@pytest.fixture
def study(session: Session) -> Study:
    return make.make_study(session)


@pytest.fixture
def checkpoint(session: Session, study: Study) -> MakeCheckpoint:
    def made(label: str = "sft", kind: CheckpointKind = CheckpointKind.policy) -> Checkpoint:
        checkpoint = Checkpoint(study_id=study.id, kind=kind, label=label, uri=f"file:///{label}")
        session.add(checkpoint)
        session.flush()
        return checkpoint

    return made


def test_the_bound_by_hand() -> None:
    assert policies.kl_bound(1) == 0
    assert policies.kl_bound(2) == pytest.approx(0.6931 - 0.5, abs=1e-4)
    assert policies.kl_bound(16) == pytest.approx(2.7726 - 0.9375, abs=1e-4)


def test_one_policy_of_each_choice(session: Session, checkpoint: MakeCheckpoint) -> None:
    sft = checkpoint()
    first, second = (checkpoint("rm", CheckpointKind.reward_model) for _ in range(2))
    plain = policies.policy_of(session, sft)
    assert policies.policy_of(session, sft, reward=first) is plain  # it scores, and chooses nothing
    best = policies.policy_of(session, sft, best_of=16, reward=first)
    assert policies.policy_of(session, sft, best_of=16, reward=first) is best
    others = {
        policies.policy_of(session, sft, best_of=4, reward=first).id,
        policies.policy_of(session, sft, best_of=16, reward=second).id,
    }
    assert len(others | {plain.id, best.id}) == 4
    assert (best.name, best.label) == (
        f"best-of-16 of sft #{sft.id} by #{first.id}",
        "best-of-16 of sft",
    )
    assert "at most 1.84 nats (KL)" in policies.description(best)


def test_the_best_of_n_needs_a_reward_model(session: Session, checkpoint: MakeCheckpoint) -> None:
    sft = checkpoint()
    for best_of, reward, message in (
        (2, None, "needs a reward model"),
        (2, checkpoint("base"), "needs a reward model"),
        (0, None, "from 1 to 1,024"),
        (1025, None, "from 1 to 1,024"),
    ):
        with pytest.raises(Invalid, match=message):
            policies.policy_of(session, sft, best_of=best_of, reward=reward)
    with pytest.raises(IntegrityError, match="best_of_by_a_reward_model"):
        session.execute(
            Policy.__table__.insert().values(  # type: ignore[attr-defined]
                study_id=sft.study_id,
                name="x",
                label="x",
                kind=PolicyKind.checkpoint,
                checkpoint_id=sft.id,
                best_of=2,
            )
        )


def test_the_latest_run_is_there_while_it_waits(
    session: Session, study: Study, checkpoint: MakeCheckpoint
) -> None:
    sft, other = checkpoint(), checkpoint()
    first, second = (checkpoint("rm", CheckpointKind.reward_model) for _ in range(2))
    make.make_prompt(session, study, split=Split.test)

    def asked(source: Checkpoint, best_of: int = 1, reward: Checkpoint | None = None) -> Run:
        splits = [Split.test]
        return policies.sample_policy(
            session, study, source, splits=splits, best_of=best_of, reward=reward
        )

    made = [
        asked(sft),
        asked(sft, 4, first),
        asked(sft, 4, second),
        asked(other),
        asked(sft, 4, first),
    ]
    last = {item.policy.name: item.last for item in policies.own_policies(session, study)}
    assert last == {
        f"sft #{sft.id}": made[0],
        f"best-of-4 of sft #{sft.id} by #{first.id}": made[4],
        f"best-of-4 of sft #{sft.id} by #{second.id}": made[2],
        f"sft #{other.id}": made[3],
    }
    never = policies.policy_of(session, other, best_of=2, reward=first)
    summaries = {item.policy.id: item for item in policies.own_policies(session, study)}
    assert summaries[never.id].last is None
    assert policies.own_policies(session, make.make_study(session, "Another")) == []


def test_a_sampled_policy_is_judged_like_any_other(
    session: Session, study: Study, checkpoint: MakeCheckpoint
) -> None:
    sft, reward = checkpoint(), checkpoint("rm", CheckpointKind.reward_model)
    prompts = [make.make_prompt(session, study, split=Split.test) for _ in range(3)]
    runs = [
        policies.sample_policy(
            session, study, sft, splits=[Split.test], count=3, best_of=best_of, reward=reward
        )
        for best_of in (1, 4)
    ]
    for run in runs:
        (request,) = run.requests
        records = [
            CompletionRecord(
                prompt_id=prompt.id,
                policy=request["policy"],
                index=0,
                text=f"{request['policy']} answers",
                finish_reason="stop",
                tokens=2,
                score=1.0,
            )
            for prompt in prompts
        ]
        assert outcomes.store_completions(session, run, records) == 3
    best = policies.policy_of(session, sft, best_of=4, reward=reward)
    stored = session.scalars(select(Completion.text).where(Completion.policy_id == best.id)).all()
    assert stored == ["best-of-4 of sft answers"] * 3
    summaries = {item.policy.label: item for item in policies.own_policies(session, study)}
    assert {label: item.prompts for label, item in summaries.items()} == {
        "sft": 3,
        "best-of-4 of sft": 3,
    }
    assert summaries["best-of-4 of sft"].last is runs[1]
    batch = ranking_batch_from_policies(
        session,
        study,
        [item.policy for item in summaries.values()],
        name="blind",
        k_min=2,
        k_max=2,
        purpose=Purpose.evaluation,
        pool=Pool.heldout,
    )
    assert len(make.tasks_of(session, batch)) == 3


def test_too_few_prompts_and_strangers_are_refused(
    session: Session, study: Study, checkpoint: MakeCheckpoint
) -> None:
    sft = checkpoint()
    make.make_prompt(session, study, split=Split.test)
    with pytest.raises(Invalid, match="have 1 prompts that can be used; 2 were asked for"):
        policies.sample_policy(session, study, sft, splits=[Split.test], count=2)
    with pytest.raises(Invalid, match="have 0 prompts that can be used"):
        policies.sample_policy(session, study, sft, splits=[Split.valid])
    with pytest.raises(NotFound, match="no reward model"):
        policies.find_checkpoint(session, study, sft.id, CheckpointKind.reward_model)
    other = make.make_study(session, "Another")
    with pytest.raises(NotFound, match="no policy"):
        policies.find_checkpoint(session, other, sft.id, CheckpointKind.policy)


def test_a_round_judges_nine_policies_at_most() -> None:
    names = [f"system-{i}" for i in range(6)]
    assert round_config({"baselines": names}).best_of == 1
    with pytest.raises(Invalid, match="fewer baselines"):
        round_config({"baselines": names, "best_of": 4})
    with pytest.raises(Invalid, match="best_of"):
        round_config({"best_of": 0})
