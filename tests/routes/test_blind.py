"""Blind: nothing that reaches a labeler's browser tells policies apart; the order is chance."""

from __future__ import annotations

import re
from collections import Counter

import httpx
from fastapi.testclient import TestClient
from scipy.stats import chi2_contingency
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.models import (
    Assignment,
    AssignmentItem,
    Completion,
    GuidelineVersion,
    Membership,
    Policy,
    Round,
    Run,
    RunKindName,
    Study,
)
from app.services import assignments, flags, label_queue
from tests import factories as make
from tests.routes.conftest import sign_in

JSON = {"Accept": "application/json"}
NAMES = ("temperature", "top_p", "finish_reason", "checkpoint", "policy", "score")  # of columns
NUMBERED = ("completions", "policies", "label_tasks", "assignments", "runs", "rounds", "prompts")


def make_known_policies(db: Session, study: Study) -> list[str]:
    """Two ranking tasks of policies of which everything is known; returns what may not be seen."""
    for place, table in enumerate(NUMBERED):  # ids that would be noticed: 7100000, 7200000, …
        db.connection().exec_driver_sql(
            f"ALTER TABLE {table} ALTER COLUMN id RESTART WITH 7{place + 1}00000"
        )
    round_ = Round(study_id=study.id, number=31, stage="zz-stage", seed=9753124, config={})
    db.add(round_)
    db.flush()
    run = Run(
        study_id=study.id,
        round_id=round_.id,
        stage="zz-sample",
        kind=RunKindName.sample,
        seed=8642135,
        preset="zz-preset",
        config={"temperature": 0.71828, "top_p": 0.91827},
        worker="zz-worker",
        result={"checkpoint": "zz-runs/000031/checkpoints/step-4444"},
    )
    db.add(run)
    db.flush()
    prompts = [make.make_prompt(db, study, external_id=f"zz-external-{n}") for n in range(2)]
    for prompt in prompts:
        for place, completion in enumerate(make.make_completions(db, prompt, 4, score=0.314159)):
            completion.external_score = 0.271828
            completion.run_id, completion.sample_index = run.id, 5550 + place
            completion.finish_reason, completion.tokens = "zz-length", 66600 + place
    for place, policy in enumerate(db.scalars(select(Policy))):
        policy.name, policy.label = f"zz-ppo-ptx-{place}", f"zz-label-{place}"
    batch = make.make_ranking_batch(db, study, prompts)
    batch.name = "zz-batch"
    db.flush()
    secrets = ["zz-", "314159", "271828", "71828", "91827", "step-4444", "9753124", "8642135"]
    secrets += [f"555{place}" for place in range(4)] + [f"6660{place}" for place in range(4)]
    for column in (Completion.id, Policy.id, Run.id, Round.id):
        secrets += [str(number) for number in db.scalars(select(column))]
    return secrets


def seen(answer: httpx.Response) -> str:
    """All of an answer, and of the answers that led to it."""
    parts = [*answer.history, answer]
    return "\n".join(f"{part.url}\n{part.headers}\n{part.text}" for part in parts)


def test_no_screen_and_no_answer_tells_policies_apart(client: TestClient, db: Session) -> None:
    study = make.make_study(db, "A study")
    labeler = make.make_labeler(db, study, "ada")
    rosa = make.make_researcher(db, study, "rosa")
    secrets = make_known_policies(db, study)
    make.make_demonstration_batch(db, study, 1)
    db.commit()
    answers: list[httpx.Response] = []

    def get(path: str, **options: object) -> httpx.Response:
        answers.append(client.get(path, **options))  # type: ignore[arg-type]
        return answers[-1]

    def send(path: str, data: dict[str, str], *, script: bool = False) -> httpx.Response:
        answers.append(client.post(path, data=data, headers=JSON if script else None))
        return answers[-1]

    sign_in(client, "ada")
    first = get("/").url.path
    start = f"/label/{study.slug}"
    tiers = {f"tier_{letter}": str(place) for place, letter in enumerate("ABCD", start=1)}
    send(f"{start}/ahead", {})
    get(first, headers={"HX-Request": "true"})
    draft = {"tier_A": "2", "overall_A": "7", "step": "rank"}
    for base in ("", "", "behind"):
        fields = draft | {"tier_B": "1"} if base else draft
        answers.append(client.put(f"{first}/draft", json=fields, params={"base": base}))
    assert answers[-1].status_code == 409
    answers.append(client.post(f"{first}/alive", json={"active_seconds": "3"}))
    send(first, {"tier_A": "1"})
    send(first, {"tier_A": "1"}, script=True)
    send(f"{first}/skip", {"reason": "bored"})
    send(f"{first}/flag", {"message": "Is this meant?"}, script=True)
    for flag in flags.flags_of_study(db, study):
        flags.answer_flag(db, flag, rosa, "Yes.")
    db.commit()
    get(f"{start}/flags")
    second = send(first, tiers | {"overall_A": "6", "sexual_content_B": "no"}, script=True)
    get(second.json()["location"])
    send(first, tiers, script=True)
    get(f"{start}/history")
    get(first)
    get(f"{first}/correct")
    send(first, tiers | {"correction": "1", "tier_A": "9"})
    send(first, tiers | {"correction": "1", "overall_A": "2"})
    db.add(GuidelineVersion(study_id=study.id, version=2, markdown="New."))
    db.commit()
    send(second.json()["location"], tiers)
    send(f"{start}/guidelines", {"version": "2"})
    get(f"{start}/guidelines")
    get(f"{start}/work")
    get("/label")
    get(f"/studies/{study.slug}")
    get("/assignments/7400001")

    # And every page that any of these leads to.
    links = {
        link
        for answer in answers
        for link in re.findall(r'(?:href|src|action)="(/[^"#]*)"', answer.text)
        if not link.startswith(("/static/", "/logout", "/login"))
    }
    assert any("/history/" in link for link in links | {answer.url.path for answer in answers})
    for link in sorted(links):
        get(link)
    assert len({answer.url.path for answer in answers}) > 10
    for answer in answers:
        found = [secret for secret in secrets if secret in seen(answer)]
        found += [name for name in NAMES if name in answer.text.lower()]
        assert found == [], f"{answer.request.method} {answer.request.url}"
    mine = select(func.count()).where(Assignment.user_id == labeler.user_id)
    assert db.scalar(mine) == 3
    completions = [answer for answer in answers if "Completion number" in answer.text]
    assert len(completions) >= 8  # the texts themselves were there to be seen


def test_the_shown_order_is_stored_and_uniform(db: Session) -> None:
    """Each of four completions is as often in each of four places, over 400 assignments."""
    study = make.make_study(db)
    labelers = make.make_labelers(db, study, 40)
    make.make_ranking_batch(db, study, 10, k=4, labels_wanted=40)
    for labeler in labelers:
        membership = db.get_one(Membership, (study.id, labeler.user_id))
        for _ in range(10):
            assignment = label_queue.lease_next(db, membership)
            assert assignment is not None
            assignments.skip(
                db,
                assignments.find_assignment(db, labeler.user, assignment.public_id),
                "other",
            )
    rank = func.dense_rank().over(
        partition_by=AssignmentItem.assignment_id, order_by=AssignmentItem.completion_id
    )
    places = db.execute(select(rank, AssignmentItem.position)).all()
    assert len(places) == 10 * 40 * 4
    counts = Counter((which, position) for which, position in places)
    table = [[counts[which, position] for position in range(4)] for which in range(1, 5)]
    assert [sum(row) for row in table] == [400] * 4
    assert chi2_contingency(table).pvalue > 1e-6, table
