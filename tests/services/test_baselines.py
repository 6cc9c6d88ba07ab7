"""External policies in blind evaluations: of a round, and of a batch made by hand."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import Invalid
from app.models import Completion, Evaluation, Policy, Pool, Prompt, Purpose, Round, Split, Study
from app.services import rounds
from app.services.batch_views import batch_view
from app.services.batches import ranking_batch_from_policies
from app.services.round_baselines import baselines, judged_prompts, possible_baselines
from app.services.round_config import RoundConfig, round_config
from app.services.round_context import Context
from tests import factories as make


def complete(session: Session, policy: Policy, prompts: list[Prompt]) -> None:
    session.add_all(
        Completion(
            study_id=policy.study_id,
            prompt_id=prompt.id,
            policy_id=policy.id,
            text=f"{policy.name} on {prompt.id}",
        )
        for prompt in prompts
    )
    session.flush()


@pytest.fixture
def study(session: Session) -> Study:
    """Six test prompts and others for a small round; "lab" has completed four, "all" six."""
    study = make.make_study(session)
    for split, count in ((Split.train, 12), (Split.valid, 4)):
        for _ in range(count):
            make.make_prompt(session, study, split=split)
    test = [make.make_prompt(session, study, split=Split.test) for _ in range(6)]
    complete(session, make.make_policy(session, study, "lab"), test[:4])
    complete(session, make.make_policy(session, study, "all"), test)
    complete(session, make.make_policy(session, study, "elsewhere"), [])
    return study


def config(**values: object) -> RoundConfig:
    small = {"preset": "starter", "demonstrations": 2, "ranking_prompts": 4}
    return round_config({**small, "evaluation_prompts": 3, **values})


def test_a_round_judges_prompts_that_its_baselines_have_completed(
    session: Session, study: Study
) -> None:
    assert possible_baselines(session, study) == [("all", 6), ("lab", 4)]
    round_ = Round(study_id=study.id, number=1, stage="x", seed=5, config={}, reused={})
    context = Context(session, study, round_, config(baselines=["lab", "all", "lab"]))
    assert [policy.name for policy in baselines(context)] == ["lab", "all"]
    of_lab = select(Completion.prompt_id).join(Completion.policy).where(Policy.name == "lab")
    judged = judged_prompts(context)
    assert len(judged) == 3
    assert set(judged) <= set(session.scalars(of_lab))
    without = Context(session, study, round_, config(evaluation_prompts=100))
    assert len(judged_prompts(without)) == 6


def test_a_round_begins_only_with_baselines_that_can_be_judged(
    session: Session, study: Study
) -> None:
    for values, words in (
        ({"baselines": ["nobody"]}, "has no external policy named nobody"),
        (
            {"baselines": ["lab"], "evaluation_prompts": 5},
            "judges 5 test prompts, and 4 of the test prompts have completions of lab",
        ),
        ({"baselines": ["lab"], "evaluation_prompts": 200}, "judges 6 test prompts, and 4 of"),
        ({"baselines": ["elsewhere"]}, "and 0 of the test prompts"),
    ):
        with pytest.raises(Invalid, match=words), session.begin_nested():
            rounds.start_round(session, study, config(**values), seed=1, started_by=None)
    assert session.scalars(select(Round)).all() == []
    started = rounds.start_round(
        session, study, config(baselines=["lab", "all"]), seed=1, started_by=None
    )
    assert started.config["baselines"] == ["lab", "all"]
    with pytest.raises(Invalid, match="baselines"):
        config(baselines=[str(number) for number in range(7)])


def test_an_evaluation_by_hand_shows_who_is_preferred(session: Session, study: Study) -> None:
    policies = [make.make_policy(session, study, name) for name in ("all", "lab")]
    batch = ranking_batch_from_policies(
        session,
        study,
        policies,
        name="lab against all",
        k_min=2,
        k_max=2,
        purpose=Purpose.evaluation,
        pool=Pool.heldout,
    )
    assert batch_view(session, study, batch.id).win_rates == []
    judge = make.make_labeler(session, study, pool=Pool.heldout)
    for _ in range(4):
        make.give_label(session, judge)
    view = batch_view(session, study, batch.id)
    rates = {(row["policy"], row["baseline"]): row["win_rate"] for row in view.win_rates}
    # Labels go by the completions' ids: those of "lab" are the smaller ones.
    assert rates == {("lab", "all"): 1.0, ("all", "lab"): 0.0}
    assert {row["judgements"] for row in view.win_rates} == {4}
    training = ranking_batch_from_policies(
        session, study, policies, name="to train", k_min=2, splits=[Split.test]
    )
    assert session.scalars(select(Evaluation.batch_id)).all() == [batch.id]
    assert batch_view(session, study, training.id).win_rates == ()


def test_two_policies_of_one_label_stand_under_their_names(session: Session, study: Study) -> None:
    policies = [make.make_policy(session, study, name) for name in ("all", "lab")]
    for policy in policies:
        policy.label = "sft"
    batch = ranking_batch_from_policies(
        session, study, policies, name="x", k_min=2, k_max=2, purpose=Purpose.evaluation
    )
    make.give_label(session, make.make_labeler(session, study))
    rows = batch_view(session, study, batch.id).win_rates
    assert {row["policy"] for row in rows} == {"lab", "all"}
