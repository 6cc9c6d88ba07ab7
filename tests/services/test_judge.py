"""Rankings by imported scores: the rows that a labeler would have made."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from app.errors import Invalid
from app.models import (
    Assignment,
    AssignmentItem,
    AssignmentState,
    Completion,
    LabelTaskState,
    PiiState,
    Prompt,
    Ranking,
    Study,
    User,
)
from app.services.batch_progress import batch_progress
from app.services.judge import rank_by_score, tiers_by_score
from tests.factories import make_completions, make_prompt, make_study, make_user, tasks_of


@pytest.fixture
def study(session: Session) -> Study:
    return make_study(session, rehearsal=True)


def scored(session: Session, study: Study, scores: list[float | None]) -> list[int]:
    completions = make_completions(session, make_prompt(session, study), len(scores))
    for completion, score in zip(completions, scores, strict=True):
        completion.external_score = score
    session.flush()
    return [completion.id for completion in completions]


def test_tiers_have_no_gaps_and_equal_scores_tie() -> None:
    tiers = tiers_by_score([(1, 0.5), (2, 0.9), (3, 0.5), (4, 0.0)])
    assert tiers == {2: 1, 1: 2, 3: 2, 4: 3}


def test_scores_become_rankings(session: Session, study: Study) -> None:
    a, b, c, d = scored(session, study, [0.5, 0.9, 0.5, 0.0])
    scored(session, study, [0.5, None])  # one score is no ranking
    judged = rank_by_score(session, study)
    assert (judged.rankings, judged.tied, judged.sizes) == (1, 1, {4: 1})
    ranking = session.scalars(select(Ranking).options(selectinload(Ranking.items))).one()
    assert {item.completion_id: item.tier for item in ranking.items} == {b: 1, a: 2, c: 2, d: 3}
    assert ranking.simulated
    assert session.get_one(User, ranking.user_id).username == "judge"
    assignment = session.get_one(Assignment, ranking.assignment_id)
    assert assignment.state is AssignmentState.submitted
    positions = session.scalars(
        select(AssignmentItem.position).where(AssignmentItem.assignment_id == assignment.id)
    )
    assert sorted(positions) == [0, 1, 2, 3]
    assert judged.batch is not None
    assert batch_progress(session, judged.batch).finished
    session.expire_all()
    task = tasks_of(session, judged.batch)[0]
    assert (task.state, task.slots_taken) == (LabelTaskState.complete, 1)


def test_prompts_that_are_held_are_left_out(session: Session, study: Study) -> None:
    (kept, *_), (held, *_) = (scored(session, study, [0.5, 0.9]) for _ in range(2))
    prompt = session.get_one(Prompt, session.get_one(Completion, held).prompt_id)
    prompt.pii_state = PiiState.held
    session.flush()
    judged = rank_by_score(session, study)
    assert judged.rankings == 1
    assert session.scalars(select(Ranking.prompt_id)).one() == (
        session.get_one(Completion, kept).prompt_id
    )


def test_each_prompt_is_ranked_once(session: Session, study: Study) -> None:
    scored(session, study, [0.1, 0.2])
    assert rank_by_score(session, study).rankings == 1
    again = rank_by_score(session, study)
    assert (again.batch, again.rankings) == (None, 0)
    scored(session, study, [0.1, 0.2, 0.3])
    assert rank_by_score(session, study).sizes == {3: 1}


def test_more_than_nine_are_sampled(session: Session, study: Study) -> None:
    scored(session, study, [n / 12 for n in range(12)])
    assert rank_by_score(session, study).sizes == {9: 1}


def test_a_program_ranks_in_rehearsals_only(session: Session, study: Study) -> None:
    real = make_study(session, "Real")
    scored(session, real, [0.1, 0.2])
    with pytest.raises(Invalid, match="Real is not a rehearsal"):
        rank_by_score(session, real)
    with pytest.raises(Invalid, match="has 2 completions with a score"):
        rank_by_score(session, study)
    make_user(session, "ann")
    with pytest.raises(Invalid, match="ann is a person"):
        rank_by_score(session, study, labeler_name="ann")
