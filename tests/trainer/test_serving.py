"""Rollouts from a real server: PPO learns, labelers' samples come, and what goes wrong is said."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from starlette.responses import JSONResponse, RedirectResponse, Response

from tests.trainer.conftest import (
    ROOT,
    MakeRun,
    metric_lines,
    prompts,
    start_trainer,
    wait_for_steps,
)
from tests.trainer.server import RolloutServer, serving
from tests.trainer.test_kinds import ppo_spec
from tests.trainer.test_processes import SHARDED, TWO, launch
from trainer.config import ConfigError
from trainer.contract import EXIT_STOPPED, PPO_SCORE, CompletionRecord, read_records, read_result
from trainer.metrics import TrainingError
from trainer.models import load_policy, load_tokenizer, save_model
from trainer.ppo import train_ppo
from trainer.rollout_server import Client, ServerSettings
from trainer.sample import run_sample

pytestmark = pytest.mark.train


@pytest.fixture
def server(base_run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RolloutServer]:
    """A server of the base policy, which this host's environment names."""
    with serving(str(base_run / "model")) as (server, url):
        monkeypatch.setenv("PLUMBLINE_ROLLOUT_URL", f"{url}/v1")
        monkeypatch.setenv("PLUMBLINE_ROLLOUT_AT_ONCE", "4")
        monkeypatch.setattr("trainer.rollout_server.DELAYS", (0.01, 0.01))
        yield server


def sample_spec(base_run: Path, policies: tuple[str, ...] = ("base",), **config: Any) -> Any:
    return {
        "kind": "sample",
        "seed": 3,
        "models": dict.fromkeys(policies, str(base_run / "model")),
        "data": {
            "requests": [
                {"prompt_id": i, "prompt": p, "policy": policy, "n": 3}
                for policy in policies
                for i, p in enumerate(prompts()[:5])
            ]
        },
        "config": {"max_completion_tokens": 7, "batch_completions": 6, **config},
    }


def test_ppo_learns_from_a_servers_rollouts(
    base_run: Path, reward_run: Path, make_run: MakeRun, server: RolloutServer
) -> None:
    run = make_run("ppo", **ppo_spec(base_run, reward_run))
    train_ppo(run)
    lines = metric_lines(run)
    scores = [line["values"][PPO_SCORE] for line in lines]
    assert sum(scores[-5:]) / 5 > sum(scores[:5]) / 5 + 0.3
    assert all(line["values"]["ppo/first_ratio_error"] < 1e-4 for line in lines)
    assert len(server.loaded) == len(set(server.loaded)) == 24
    assert not list(run.glob("rollout*"))  # what was written for the server is gone
    assert server.most_under_way <= 4
    assert len(server.bodies) == 24 * 32
    assert len({body["seed"] for body in server.bodies}) > 0.99 * 24 * 32
    result = read_result(run)
    assert result is not None
    assert result.versions["rollout server"] == "sglang"
    assert "| rollout server | sglang |" in (run / "model" / "README.md").read_text()


def test_a_seed_of_its_own_makes_each_completion_come_again(
    base_run: Path, reward_run: Path, make_run: MakeRun, server: RolloutServer
) -> None:
    server.token_ids = "tokens"  # the other way of telling ids
    weights = []
    for name in ("one", "two"):
        run = make_run(name, **ppo_spec(base_run, reward_run, episodes=3 * 32))
        train_ppo(run)
        weights.append(load_file(run / "model" / "model.safetensors"))
    assert all((weights[0][name] == tensor).all() for name, tensor in weights[1].items())


def test_a_run_that_failed_for_its_server_goes_on(
    base_run: Path, reward_run: Path, make_run: MakeRun, server: RolloutServer
) -> None:
    spec = ppo_spec(base_run, reward_run, episodes=4 * 32, checkpoint_seconds=0)
    whole, broken = (make_run(name, **spec) for name in ("whole", "broken"))
    train_ppo(whole)
    server.refuses_after = len(server.bodies) + 2 * 32 + 5
    with pytest.raises(TrainingError, match="it says 'closed for today'"):
        train_ppo(broken)
    assert len(metric_lines(broken)) == 2
    server.refuses_after = sys.maxsize
    train_ppo(broken)
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (whole, broken))
    assert all((theirs[name] == tensor).all() for name, tensor in ours.items())


@pytest.mark.parametrize("launcher", [TWO, SHARDED])
def test_two_processes_share_a_server(
    base_run: Path,
    reward_run: Path,
    make_run: MakeRun,
    server: RolloutServer,
    launcher: tuple[str, ...],
) -> None:
    runs = {
        count: make_run(f"ppo-{count}", **ppo_spec(base_run, reward_run, episodes=2 * 32))
        for count in (1, 2)
    }
    train_ppo(runs[1])
    server.loaded.clear()
    launch([runs[2]], *launcher, processes=2, sharded=launcher == SHARDED)
    assert len(server.loaded) == 2  # by the main process alone
    one, two = (metric_lines(run) for run in runs.values())
    assert [line["values"][PPO_SCORE] for line in two] == pytest.approx(
        [line["values"][PPO_SCORE] for line in one], abs=1e-4
    )


def test_ppo_stops_where_the_server_keeps_its_old_weights(
    base_run: Path, reward_run: Path, make_run: MakeRun, server: RolloutServer
) -> None:
    server.loads_weights = False
    run = make_run("ppo", **ppo_spec(base_run, reward_run))
    with pytest.raises(TrainingError, match=r"iteration \d+: the first ratio is .* away from 1: "):
        train_ppo(run)
    assert 1 <= len(metric_lines(run)) < 5


def test_ppo_stops_where_the_server_tells_logprobs_of_something_else(
    base_run: Path,
    reward_run: Path,
    make_run: MakeRun,
    server: RolloutServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.logprob_error = 0.01
    spec = ppo_spec(base_run, reward_run, episodes=32)
    with pytest.raises(TrainingError, match=r"up to 0\.01 nats .* by the server http://127"):
        train_ppo(make_run("refused", **spec))
    monkeypatch.setenv("PLUMBLINE_ROLLOUT_RATIO_TOLERANCE", "0.02")
    train_ppo(make_run("allowed", **spec))


def test_ppo_needs_the_sampled_ids(
    base_run: Path, reward_run: Path, make_run: MakeRun, server: RolloutServer
) -> None:
    server.token_ids = None
    with pytest.raises(TrainingError, match="does not say which tokens it sampled"):
        train_ppo(make_run("ppo", **ppo_spec(base_run, reward_run)))


@pytest.mark.parametrize("token_ids", ["token_ids", None])
def test_sample_through_a_server(
    base_run: Path, make_run: MakeRun, server: RolloutServer, token_ids: str | None
) -> None:
    server.token_ids = token_ids
    texts: list[list[str]] = []
    for name in ("one", "two"):
        run = make_run(name, **sample_spec(base_run, ("base", "again")))
        run_sample(run)
        records = list(read_records(run / "completions.jsonl", CompletionRecord))
        assert len(records) == 30
        assert {r.finish_reason for r in records} == {"stop", "length"}
        assert all(r.tokens <= 7 for r in records if token_ids)
        texts.append([r.text for r in records])
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 5
    assert len(server.loaded) == 4


def test_sample_stops_where_the_server_samples_from_another_policy(
    base_run: Path, make_run: MakeRun, server: RolloutServer, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(str(base_run / "model"))
    other = load_policy(str(base_run / "model"), tokenizer)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    save_model(tmp_path / "other", other, tokenizer)
    spec = sample_spec(base_run, ("base", "other"))
    spec["models"]["other"] = str(tmp_path / "other")
    run_sample(make_run("fine", **spec))
    server.loads_weights = False  # it keeps those of the run before, of "other"
    with pytest.raises(TrainingError, match="nats a token away from the policy's: does it sample"):
        run_sample(make_run("stopped", **spec))


def test_a_server_that_is_given_no_weights_serves_one_policy(
    base_run: Path,
    reward_run: Path,
    make_run: MakeRun,
    server: RolloutServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PLUMBLINE_ROLLOUT_WEIGHTS", "none")
    run_sample(make_run("one", **sample_spec(base_run)))
    assert server.loaded == []
    asked = len(server.bodies)
    with pytest.raises(ConfigError, match="can sample from one policy only"):
        run_sample(make_run("two", **sample_spec(base_run, ("base", "again"))))
    assert len(server.bodies) == asked
    with pytest.raises(ConfigError, match="PPO needs a server that is given new weights"):
        train_ppo(make_run("ppo", **ppo_spec(base_run, reward_run)))


def test_a_resumed_run_that_has_one_policy_left_still_needs_new_weights(
    base_run: Path, make_run: MakeRun, server: RolloutServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("run", **sample_spec(base_run, ("base", "again"), checkpoint_seconds=0))
    server.refuses_after = 15  # all of the first policy's
    with pytest.raises(TrainingError, match="it says 'closed for today'"):
        run_sample(run)
    assert metric_lines(run)[-1]["phase"] == "sample again"
    assert len(server.loaded) == 2
    server.refuses_after = sys.maxsize
    monkeypatch.setenv("PLUMBLINE_ROLLOUT_WEIGHTS", "none")
    for _ in range(2):
        with pytest.raises(ConfigError, match="can sample from one policy only"):
            run_sample(run)
    assert len(server.bodies) == 15


def test_a_server_of_unknown_make(
    base_run: Path, make_run: MakeRun, server: RolloutServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.owner = "somebody"
    with pytest.raises(ConfigError, match="does not say that it is SGLang or vLLM"):
        run_sample(make_run("one", **sample_spec(base_run)))
    monkeypatch.setenv("PLUMBLINE_ROLLOUT_WEIGHTS", "sglang")
    run_sample(make_run("two", **sample_spec(base_run)))
    monkeypatch.setenv("PLUMBLINE_ROLLOUT_MODEL", "gpt")
    with pytest.raises(ConfigError, match=r"_MODEL: the server .* has policy; name one of them"):
        run_sample(make_run("three", **sample_spec(base_run)))


def test_weights_that_cannot_be_loaded(
    base_run: Path, make_run: MakeRun, server: RolloutServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_source: str) -> None:
        raise ValueError("size mismatch for embed_in.weight")

    monkeypatch.setattr(server, "_load", refuse)
    with pytest.raises(TrainingError, match=r"refuses /update.* \(400\): .*size m"):
        run_sample(make_run("run", **sample_spec(base_run)))


def test_failures_that_pass_are_tried_again(
    base_run: Path, make_run: MakeRun, server: RolloutServer
) -> None:
    calm, stormy = (make_run(name, **sample_spec(base_run)) for name in ("calm", "stormy"))
    run_sample(calm)
    server.failures = [
        Response("out of memory", 500),
        JSONResponse({"error": {"message": "slow down"}}, 429, {"Retry-After": "0.2"}),
        Response(status_code=503),
    ]
    run_sample(stormy)
    assert server.failures == []
    told = [(run / "completions.jsonl").read_text() for run in (calm, stormy)]
    assert told[0] == told[1]


def test_a_run_stops_at_once_while_its_server_fails(
    base_run: Path, reward_run: Path, make_run: MakeRun, server: RolloutServer
) -> None:
    spec = ppo_spec(base_run, reward_run, episodes=6 * 32, checkpoint_seconds=0)
    whole, stopped = (make_run(name, **spec) for name in ("whole", "stopped"))
    train_ppo(whole)
    process = start_trainer("ppo", stopped)
    try:
        wait_for_steps(stopped, 2)
        server.failures = [Response(status_code=503)] * 1000
        deadline = time.monotonic() + 60
        while len(server.failures) > 1000 - 12:  # each of four failed three times, and waits 5 s
            assert time.monotonic() < deadline
            time.sleep(0.02)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == EXIT_STOPPED, output
    assert time.monotonic() - began < 3
    assert "stopped while the rollout server http://127" in output
    assert "Traceback" not in output
    server.failures = []
    train_ppo(stopped)
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (whole, stopped))
    assert all((theirs[name] == tensor).all() for name, tensor in ours.items())


@pytest.mark.parametrize(
    ("failures", "message"),
    [
        (
            [Response("CUDA error", 500)] * 50,
            r"failed at .* \(500\): it says 'CUDA e.* Tried 3 times",
        ),
        ([JSONResponse({"detail": "too long"}, 400)], r"refuses .* \(400\): it says 'too long'"),
        (
            [RedirectResponse("http://127.0.0.1:1/")],
            r"leads elsewhere \(307\), which is not followed",
        ),
        ([Response("<html>")], "something that is no JSON"),
        ([JSONResponse({"choices": []})], "something that is no completion"),
        ([JSONResponse({"choices": [{"finish_reason": "abort"}]})], "for the reason 'abort'"),
    ],
)
def test_failures_that_do_not_pass(
    base_run: Path,
    make_run: MakeRun,
    server: RolloutServer,
    failures: list[Response],
    message: str,
) -> None:
    server.failures = failures
    with pytest.raises(TrainingError, match=message):
        run_sample(make_run("run", **sample_spec(base_run)))


@pytest.mark.parametrize(
    ("ids", "reason", "message"),
    [
        ([5, 6, 7], "stop", "stopped at token 7, and end-of-text is 0"),
        ([5, 6, 7], "length", "cut a completion after 3 of 7 tokens"),
        ([5, 300, 0], "stop", "told ids that are no tokens of the policy"),
        (["5", 0], "stop", "told ids that are no tokens of the policy"),
        ([5, 1, 0], "stop", "sampled the pad token"),
        ([5, 0, 6, 0], "stop", "goes on after end-of-text"),
        ([5] * 8, "length", "goes on after end-of-text, or after max_tokens"),
    ],
)
def test_ids_that_cannot_be(
    base_run: Path,
    make_run: MakeRun,
    server: RolloutServer,
    ids: list[Any],
    reason: str,
    message: str,
) -> None:
    choice = {"text": "", "token_ids": ids, "finish_reason": reason}
    server.failures = [JSONResponse({"choices": [choice]})]
    with pytest.raises(TrainingError, match=message):
        run_sample(make_run("run", **sample_spec(base_run)))


def test_the_key_is_sent_and_never_shown(
    base_run: Path, make_run: MakeRun, server: RolloutServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = "sk-secret"
    with pytest.raises(TrainingError, match=r"wants a key \(401\): it says 'Invalid API key'"):
        run_sample(make_run("none", **sample_spec(base_run)))
    monkeypatch.setenv("PLUMBLINE_ROLLOUT_KEY", "sk-wrong")
    with pytest.raises(TrainingError, match="does not take the key in PLUMBLINE_ROLLOUT_KEY"):
        run_sample(make_run("wrong", **sample_spec(base_run)))
    monkeypatch.setenv("PLUMBLINE_ROLLOUT_KEY", "sk-secret")
    server.failures = [JSONResponse({"error": "not for sk-secret"}, 400)]
    with pytest.raises(TrainingError, match="it says 'not for …'"):
        run_sample(make_run("said", **sample_spec(base_run)))
    run_sample(make_run("right", **sample_spec(base_run)))
    assert "sk-secret" not in repr(ServerSettings.from_environment(os.environ))


def test_nobody_listens(base_run: Path, make_run: MakeRun) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    run = make_run("run", **sample_spec(base_run))
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "sample", str(run)],
        cwd=ROOT,
        env={
            **os.environ,
            "PLUMBLINE_ROLLOUT_URL": f"http://127.0.0.1:{port}",
            "PLUMBLINE_ROLLOUT_SECONDS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"trainer: no connection to the rollout server http://127.0.0.1:{port}"
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("URI", "there is no setting PLUMBLINE_ROLLOUT_URI; did you mean PLUMBLINE_ROLLOUT_URL?"),
        ("KEY", "PLUMBLINE_ROLLOUT_URL is missing: .* that PLUMBLINE_ROLLOUT_KEY is for"),
    ],
)
def test_settings_without_a_server(
    base_run: Path,
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    message: str,
) -> None:
    run = make_run("run", **sample_spec(base_run))
    monkeypatch.setenv(f"PLUMBLINE_ROLLOUT_{variable}", "http://gpu1:30000")
    with pytest.raises(ConfigError, match=message):
        run_sample(run)
    monkeypatch.setenv(f"PLUMBLINE_ROLLOUT_{variable}", " ")  # as good as not set
    run_sample(run)


def test_without_a_server_no_client_is_loaded() -> None:
    program = (
        "import sys; from unittest.mock import Mock; from trainer.engine import engine_for; "
        "engine_for(Mock(), exact=True); sys.exit('httpx' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_a_request_ends_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client = Client(ServerSettings(url=url, seconds=1.0))
        with pytest.raises(TrainingError, match=r"did not answer /v1/models in 1 s.* Tried once"):
            client.ask("GET", "/v1/models")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"URL": "gpu1:8000"}, "begins with http"),
        ({"URL": "http://me:secret@gpu1"}, "without a user"),
        ({"URL": "http://gpu1", "AT_ONCE": "many"}, "AT_ONCE: 'many' is no number"),
        ({"URL": "http://gpu1", "AT_ONCE": "0"}, "AT_ONCE: 0 is below 1"),
        ({"URL": "http://gpu1", "WEIGHTS": "tgi"}, "'tgi' is none of sglang, vllm, none"),
        ({"URL": "http://gpu1", "FOLDERS": "/x"}, "did you mean PLUMBLINE_ROLLOUT_FOLDER?"),
        ({"URL": "http://gpu1", "KEY": "a\nb"}, "characters that no key has"),
    ],
)
def test_settings_that_cannot_be(variables: dict[str, str], message: str) -> None:
    environment = {f"PLUMBLINE_ROLLOUT_{name}": value for name, value in variables.items()}
    with pytest.raises(ConfigError, match=message):
        ServerSettings.from_environment({**environment, "PLUMBLINE_HOST": "0.0.0.0"})
