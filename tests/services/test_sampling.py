"""Sampling an external system against a real HTTP server, on a database of its own."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, update
from sqlalchemy.orm import Session

from app import sampling
from app.errors import Conflict, Invalid, NotFound
from app.models import (
    Completion,
    Import,
    PiiState,
    Policy,
    PolicyKind,
    Prompt,
    RequestState,
    Sampling,
    SamplingRequest,
    SamplingState,
    Split,
    Study,
)
from app.services.external import pacing, queue, samplings, systems
from app.services.external.samplings import Choice, NothingToSample
from app.services.external.settings import SystemSettings
from app.services.import_undo import undo_import
from tests import factories as make
from tests.conftest import clear_settings, free_port
from tests.endpoint import Endpoint, Reply, Request, chat, endpoint_server, error, work

TEST = Choice(splits=(Split.test,))


@pytest.fixture
def worker(fresh_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Background work commits to a database of its own, and waits briefly after failures."""
    monkeypatch.setenv("PLUMBLINE_DATABASE_URL", fresh_database)
    monkeypatch.setattr(pacing, "DELAYS", (0.01,) * 6)
    monkeypatch.setattr(sampling, "BEAT_SECONDS", 0.02)
    clear_settings()
    yield
    monkeypatch.undo()
    clear_settings()


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with endpoint_server() as server:
        yield server


def queued(
    engine: Engine, server: Endpoint, prompts: int = 6, completions: int = 1, **settings: Any
) -> int:
    """The id of a sampling of so many test prompts, "Prompt 0." and so on."""
    with Session(engine) as session:
        study = make.make_study(session)
        for number in range(prompts):
            make.make_prompt(session, study, f"Prompt {number}.", split=Split.test)
        system = systems.add_system(session, study, "lab", server.settings(**settings))
        choice = Choice(splits=(Split.test,), completions=completions)
        made = samplings.start_sampling(session, study, system, choice)
        session.commit()
        return made.id


def stored(engine: Engine) -> dict[str, list[str]]:
    """Texts by prompt."""
    found: dict[str, list[str]] = {}
    with Session(engine) as session:
        rows = select(Prompt.text, Completion.text).join(Completion.prompt)
        for prompt, text in session.execute(rows.order_by(Completion.id)):
            found.setdefault(prompt, []).append(text)
    return found


def how(engine: Engine, sampling_id: int) -> tuple[str, samplings.Progress]:
    with Session(engine) as session:
        found = session.get_one(Sampling, sampling_id)
        return found.state.value, samplings.progress_of(session, [found])[found.id]


def problems(engine: Engine, sampling_id: int) -> Counter[str]:
    with Session(engine) as session:
        found = session.get_one(Sampling, sampling_id)
        return Counter(problem for _, problem in samplings.problems_of(session, found))


@pytest.mark.usefixtures("worker")
def test_every_prompt_gets_its_completions_once(fresh_engine: Engine, server: Endpoint) -> None:
    number = queued(fresh_engine, server, 5, 3, seed=100, at_a_time=4)
    four = threading.Barrier(4, timeout=60)

    def rule(_: Request) -> Reply | None:
        if len(server.requests) <= 4:
            four.wait()  # the first answer comes when four were asked for
        return None

    server.rule = rule
    work(number)
    work(number)  # a message that comes twice changes nothing
    assert how(fresh_engine, number) == ("finished", samplings.Progress(done=15))
    assert {len(texts) for texts in stored(fresh_engine).values()} == {3}
    assert len(server.requests) == 15
    assert server.most_at_a_time == 4
    # Each of a prompt's completions has a seed of its own.
    assert Counter(request.body["seed"] for request in server.requests) == {100: 5, 101: 5, 102: 5}
    with Session(fresh_engine) as session:
        study = session.scalars(select(Study)).one()
        policy = session.scalars(select(Policy)).one()
        assert (policy.name, policy.kind) == ("lab", PolicyKind.external)
        completion = session.scalars(select(Completion)).first()
        assert completion is not None
        assert (completion.finish_reason, completion.tokens) == ("stop", 3)
        # The same again asks for nothing, more asks for what is missing.
        system = systems.system_named(session, study, "lab")
        three = Choice(splits=(Split.test,), completions=3)
        with pytest.raises(NothingToSample, match="Each of the 5 prompts has 3"):
            samplings.start_sampling(session, study, system, three)
        assert session.scalar(select(func.count()).select_from(Sampling)) == 1
        more = three.model_copy(update={"completions": 4, "count": 2})
        again = samplings.start_sampling(session, study, system, more)
        indices = select(SamplingRequest.sample_index).where(
            SamplingRequest.sampling_id == again.id
        )
        assert session.scalars(indices).all() == [3, 3]


@pytest.mark.usefixtures("worker")
def test_what_passes_is_waited_for(fresh_engine: Engine, server: Endpoint) -> None:
    number = queued(fresh_engine, server, 6, timeout_seconds=1, at_a_time=2)
    server.replies = [
        error(429, "slow down", retry_after="0"),
        error(500, "out of memory"),
        Reply(status=503),
        Reply(hang=True),
        Reply(body=b'{"choices": [', cut=True),
    ]
    work(number)
    assert how(fresh_engine, number) == ("finished", samplings.Progress(done=6))
    assert len(server.requests) == 11
    assert all(len(texts) == 1 for texts in stored(fresh_engine).values())


@pytest.mark.usefixtures("worker")
def test_a_bad_answer_is_that_prompts_and_the_others_go_on(
    fresh_engine: Engine, server: Endpoint
) -> None:
    bad = {
        "Prompt 0.": Reply(body=b"<html>"),
        "Prompt 1.": chat(""),
        "Prompt 2.": chat("a\0b"),
        "Prompt 3.": chat("x" * 40_000),
        "Prompt 4.": error(400, "too many tokens"),
        "Prompt 5.": error(500, "this one breaks me"),
    }
    server.rule = lambda request: bad.get(request.prompt)
    number = queued(fresh_engine, server, 12, at_a_time=1)
    work(number)
    assert how(fresh_engine, number) == ("finished", samplings.Progress(done=6, failed=6))
    assert sorted(problems(fresh_engine, number)) == [
        "It said nothing.",
        "The answer has 40,000 characters; at most 32,000 are taken.",
        "The answer holds a NUL character, which the database cannot keep.",
        "The answer is not JSON.",
        "The endpoint does not take this prompt (400). It says: too many tokens",
        "The endpoint is broken (500). It says: this one breaks me Tried 5 times.",
    ]
    # Mended, the rest is asked for, and what came is kept.
    server.rule = lambda _: None
    kept = stored(fresh_engine)
    with Session(fresh_engine) as session:
        samplings.retry(session, session.get_one(Sampling, number))
        session.commit()
    work(number)
    assert how(fresh_engine, number) == ("finished", samplings.Progress(done=12))
    assert kept.items() <= stored(fresh_engine).items()
    with Session(fresh_engine) as session, pytest.raises(Conflict, match="nothing to retry"):
        samplings.retry(session, session.get_one(Sampling, number))


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("reply", "words", "at_most"),
    [
        (error(401, "no key"), "wants an API key (401)", 4),
        (error(404, "no model tiny"), "no such model there (404). It says: no model tiny", 4),
        (error(302, ""), "leads elsewhere", 4),
        (Reply(status=503), "It was so 7 times in a row", 28),
        (error(429, "later", retry_after="7200"), "It asks to wait 120 minutes", 4),
        (Reply(body=b"garbage"), "20 answers in a row could not be used. The last: The ans", 24),
    ],
)
def test_a_system_that_answers_nothing_is_given_up(
    fresh_engine: Engine, server: Endpoint, reply: Reply, words: str, at_most: int
) -> None:
    number = queued(fresh_engine, server, 30, at_a_time=4)
    server.rule = lambda _: reply
    work(number)
    state, progress = how(fresh_engine, number)
    assert (state, progress.done, progress.total) == ("failed", 0, 30)
    assert len(server.requests) <= at_most
    with Session(fresh_engine) as session:
        found = session.get_one(Sampling, number)
        assert words in (found.error or "")
        assert queue.due(session) == []
        samplings.retry(session, found)
        session.commit()
    server.rule = lambda _: None
    work(number)
    assert how(fresh_engine, number) == ("finished", samplings.Progress(done=30))


@pytest.mark.usefixtures("worker")
def test_nobody_listens_and_then_somebody_does(fresh_engine: Engine, server: Endpoint) -> None:
    port = free_port()
    number = queued(fresh_engine, server, 3, base_url=f"http://127.0.0.1:{port}/v1")
    work(number)
    with Session(fresh_engine) as session:
        found = session.get_one(Sampling, number)
        assert "No connection to http://127.0.0.1" in (found.error or "")
        samplings.retry(session, found)
        session.commit()
    with endpoint_server(port):
        work(number)
    assert how(fresh_engine, number) == ("finished", samplings.Progress(done=3))


@pytest.mark.usefixtures("worker")
def test_a_dead_workers_sampling_goes_on_and_stores_nothing_twice(
    fresh_engine: Engine, server: Endpoint
) -> None:
    number = queued(fresh_engine, server, 10, at_a_time=1)
    with Session(fresh_engine) as session:
        first = queue.claim(session, number)
        assert first is not None
        assert queue.claim(session, number) is None
        wanted = queue.next_requests(session, first, 4, without=[])
        answer = sampling.endpoint.Answer(text="Of the first.", finish_reason=None, tokens=None)
        stored_ = [(each.request_id, answer) for each in wanted]
        queue.store(session, first, answers=stored_)
        queue.store(session, first, answers=stored_)  # told twice, stored once
        assert queue.due(session) == []
        session.execute(update(Sampling).values(lease_until=func.now() - timedelta(minutes=1)))
        session.commit()
        assert queue.due(session) == [number]
    work(number)
    assert how(fresh_engine, number) == ("finished", samplings.Progress(done=10))
    assert len(server.requests) == 6
    texts = [text for each in stored(fresh_engine).values() for text in each]
    assert (len(texts), texts.count("Of the first.")) == (10, 4)
    # The first worker was only slow: what it does now comes to nothing.
    with Session(fresh_engine) as session:
        for act in (
            lambda: queue.store(session, first, answers=stored_),
            lambda: queue.beat(session, first, note=None),
            lambda: queue.fail(session, first, "late"),
            lambda: queue.next_requests(session, first, 1, without=[]),
        ):
            with pytest.raises(queue.SamplingGone):
                act()


@pytest.mark.usefixtures("worker")
def test_a_worker_that_is_to_stop_gives_it_back_at_once(
    fresh_engine: Engine, server: Endpoint
) -> None:
    number = queued(fresh_engine, server, 9, at_a_time=2)
    stopping = threading.Event()

    def rule(_: Request) -> Reply | None:
        if len(server.requests) == 5:
            stopping.set()
            return Reply(hang=True)  # what is under way is not waited for
        return None

    server.rule = rule
    work(number, stopping)
    state, progress = how(fresh_engine, number)
    assert state == "queued"
    assert 3 <= progress.done < 9
    work(number)
    assert how(fresh_engine, number) == ("finished", samplings.Progress(done=9))


@pytest.mark.usefixtures("worker")
def test_cancelling_keeps_what_came_and_drops_what_is_under_way(
    fresh_engine: Engine, server: Endpoint
) -> None:
    number = queued(fresh_engine, server, 8, at_a_time=1)

    def rule(_: Request) -> Reply | None:
        if len(server.requests) == 4:
            with Session(fresh_engine) as session:
                samplings.cancel(session, session.get_one(Sampling, number))
                session.commit()
        return None

    server.rule = rule
    work(number)
    assert how(fresh_engine, number) == ("cancelled", samplings.Progress(done=3, waiting=5))
    with Session(fresh_engine) as session:
        found = session.get_one(Sampling, number)
        with pytest.raises(Conflict, match="cancelled already"):
            samplings.cancel(session, found)
        samplings.retry(session, found)
        session.commit()
    work(number)
    assert how(fresh_engine, number) == ("finished", samplings.Progress(done=8))


@pytest.mark.usefixtures("worker")
def test_workers_that_die_over_it_give_it_up(fresh_engine: Engine, server: Endpoint) -> None:
    number = queued(fresh_engine, server, 1)
    with Session(fresh_engine) as session:
        for attempt in range(1, queue.DEATHS + 1):
            assert queue.due(session) == [number]
            claim = queue.claim(session, number)
            assert claim is not None
            assert claim.attempt == attempt
            session.execute(update(Sampling).values(lease_until=func.now() - timedelta(minutes=1)))
        assert queue.due(session) == []
        assert "stopped 3 times" in (session.get_one(Sampling, number).error or "")


@pytest.mark.usefixtures("worker")
def test_so_many_samplings_at_once_and_no_more(fresh_engine: Engine, server: Endpoint) -> None:
    with Session(fresh_engine) as session:
        study = make.make_study(session)
        make.make_prompt(session, study, split=Split.test)
        made = []
        for name in ("a", "b", "c"):
            system = systems.add_system(session, study, name, server.settings())
            made.append(samplings.start_sampling(session, study, system, TEST).id)
            with pytest.raises(Conflict, match="is being sampled"):
                samplings.start_sampling(session, study, system, TEST)
        claims = [queue.claim(session, number) for number in made]
        assert [claim is not None for claim in claims] == [True, True, False]
        first = claims[0]
        assert first is not None
        queue.finish(session, first)
        assert queue.claim(session, made[2]) is not None


@pytest.mark.usefixtures("worker")
def test_prompts_that_may_not_leave_the_study_do_not(
    fresh_engine: Engine, server: Endpoint
) -> None:
    many = 3 * sampling.AHEAD  # more than are looked at together
    number = queued(fresh_engine, server, many)
    with Session(fresh_engine) as session:
        ids = select(SamplingRequest.prompt_id).order_by(SamplingRequest.id)
        prompts = [session.get_one(Prompt, prompt_id) for prompt_id in session.scalars(ids)]
        for prompt in prompts[:-2]:
            prompt.withdrawn_at = func.now()
        prompts[-2].pii_state = PiiState.held
        allowed = prompts[-1].text
        session.commit()
    work(number)
    assert how(fresh_engine, number) == ("finished", samplings.Progress(done=1, failed=many - 1))
    assert [request.prompt for request in server.requests] == [allowed]
    assert list(problems(fresh_engine, number)) == [
        "The prompt was withdrawn, or is held back for personal data."
    ]


def test_which_prompts(session: Session) -> None:
    study, other = make.make_study(session, "One"), make.make_study(session, "Other")
    by_split = {
        split: [make.make_prompt(session, study, split=split) for _ in range(3)] for split in Split
    }
    by_split[Split.test][0].pii_state = PiiState.dropped
    batch = make.make_ranking_batch(session, study, by_split[Split.valid][:2])
    foreign = make.make_ranking_batch(session, other, 1)
    settings = SystemSettings(base_url="http://127.0.0.1:9/v1", model="tiny")
    system = systems.add_system(session, study, "lab", settings)

    def asked(**choice: Any) -> set[int]:
        made = samplings.start_sampling(session, study, system, Choice(**choice))
        rows = select(SamplingRequest.prompt_id).where(SamplingRequest.sampling_id == made.id)
        found = session.scalars(rows).all()
        assert len(found) == len(set(found))
        samplings.cancel(session, made)
        return set(found)

    assert asked(splits=["test"]) == {prompt.id for prompt in by_split[Split.test][1:]}
    assert len(asked(splits=["train", "valid"])) == 6
    assert asked(batch=batch.id) == {prompt.id for prompt in by_split[Split.valid][:2]}
    two = asked(splits=["train"], count=2)
    assert asked(splits=["train"], count=2) == two  # the same each time
    assert len(two) == 2
    with pytest.raises(Invalid, match="Choose a batch, or at least one split"):
        asked()
    with pytest.raises(NotFound, match="no such batch"):
        asked(batch=foreign.id)
    for prompt in by_split[Split.test]:
        prompt.withdrawn_at = func.now()
    with pytest.raises(Invalid, match="No prompt that can be used"):
        asked(splits=["test"])


def test_a_system_is_named_once_and_answers_in_one_way(session: Session) -> None:
    study = make.make_study(session)
    make.make_prompt(session, study, split=Split.test)
    settings = SystemSettings(base_url="http://127.0.0.1:9/v1", model="tiny")
    system = systems.add_system(session, study, " lab ", settings)
    assert system.policy.name == "lab"
    for name, words in (
        ("lab", "a policy named lab already"),
        ("PPO-ptx", "calls a policy of its own"),
        ("  ", "it is missing"),
        ("a\0", "NUL"),
        ("a\u202eb", "turns the direction"),
        ("x" * 201, "201 characters"),
    ):
        with pytest.raises((Conflict, Invalid), match=words):
            systems.add_system(session, study, name, settings)
    hot = settings.model_copy(update={"temperature": 2.0})
    systems.update_system(session, system, hot)
    samplings.start_sampling(session, study, system, TEST)
    with pytest.raises(Conflict, match="Temperature: it was sampled already"):
        systems.update_system(session, system, settings)
    moved = hot.model_copy(update={"base_url": "http://gpu:8000/v1", "per_minute": 6})
    systems.update_system(session, system, moved)
    assert systems.settings_of(system).base_url == "http://gpu:8000/v1"
    with pytest.raises(Conflict, match="its completions, and what was asked, stay"):
        systems.remove_system(session, system)
    spare = systems.add_system(session, study, "spare", settings)
    assert [summary.policy.name for summary in systems.systems_of(session, study)] == [
        "lab",
        "spare",
    ]
    systems.remove_system(session, spare)
    assert session.scalars(select(Policy.name)).all() == ["lab"]
    with pytest.raises(NotFound):
        systems.find_system(session, make.make_study(session, "Other"), system.policy_id)
    assert session.scalar(select(SamplingRequest.state)) is RequestState.waiting
    assert session.scalar(select(Sampling.state)) is SamplingState.queued


def test_an_import_that_was_sampled_is_not_undone(session: Session) -> None:
    study = make.make_study(session)
    record = Import(study_id=study.id, kind="prompts", file_name="p.jsonl", sha256="0", report={})
    session.add(record)
    session.flush()
    make.make_prompt(session, study, split=Split.test).import_id = record.id
    settings = SystemSettings(base_url="http://127.0.0.1:9/v1", model="tiny")
    system = systems.add_system(session, study, "lab", settings)
    samplings.start_sampling(session, study, system, TEST)
    with pytest.raises(Conflict, match="1 requests to external systems are about its prompts"):
        undo_import(session, study, record.id)
