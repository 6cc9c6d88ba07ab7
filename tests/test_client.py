"""The client against a whole installation: web server, workers, the sweep."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.models import Membership, TokenScope
from app.services import label_queue
from app.services.api_tokens import make_token
from app.supervisor import Supervisor
from plumbline import client
from plumbline.client import Plumbline, PlumblineError
from tests import factories as make

README = Path(__file__).resolve().parent.parent / "README.md"


@pytest.fixture
def tokens(fresh_engine: Engine) -> dict[str, str]:
    """Tokens by study: ann labels in my-study, and nobody in quiet."""
    found: dict[str, str] = {}
    with Session(fresh_engine) as session:
        for name in ("My study", "Quiet"):
            study = make.make_study(session, name)
            rosa = make.make_researcher(session, study)
            _, found[study.slug] = make_token(
                session, study, rosa, name="test", scope=TokenScope.write, days=None
            )
            if name == "My study":
                make.make_labeler(session, study, "ann")
        session.commit()
    return found


@pytest.fixture
def labeling(fresh_engine: Engine, tokens: dict[str, str]) -> Iterator[None]:  # noqa: ARG001
    """Ann gives every label that is asked for, as soon as it is."""
    stop = threading.Event()

    def label() -> None:
        while not stop.wait(0.2):
            with Session(fresh_engine) as session:
                ann = session.scalars(select(Membership).where(Membership.pool.is_not(None))).one()
                if label_queue.lease_next(session, ann) is not None:
                    make.give_label(session, ann)
                    session.commit()

    thread = threading.Thread(target=label, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join(timeout=10)


@pytest.mark.usefixtures("labeling")
def test_the_readmes_example_runs_as_it_stands_and_refusals_are_said(
    live_server: Supervisor, tokens: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = README.read_text("utf-8").split("```python\n")[1].split("```")[0]
    code = code.replace("http://127.0.0.1:8000", live_server.url).replace(
        "plumb_…", tokens["my-study"]
    )
    words = ["rivers", "birds", "tools", "spices", "metals", "games", "boats", "trees", "dances"]
    rows = [{"prompt": f"Write what you know about {word}.", "user": word} for word in words]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(README.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "data/sft/manifest.json").read_text("utf-8"))
    assert 1 <= manifest["rows"] <= len(rows)  # those of the users whose split is train
    assert manifest["rows_by_origin_and_split"] == {"customer": {"train": manifest["rows"]}}
    assert manifest["snapshot"] is not None
    lines = (tmp_path / "data/sft/jsonl/train.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == manifest["rows"]
    assert (tmp_path / "data/sft/parquet/train.parquet").stat().st_size > 0

    refusals_and_time_limits(live_server.url, tokens["quiet"], tmp_path / "out", monkeypatch)


def refusals_and_time_limits(url: str, token: str, out: Path, patch: pytest.MonkeyPatch) -> None:
    """Of the same installation, whose start takes seconds; nobody labels in the study."""
    patch.setattr(client, "POLL_SECONDS", 0.1)
    with Plumbline(url, token=token, study="quiet") as plumbline:
        with pytest.raises(PlumblineError, match="line 1") as refused:
            plumbline.import_prompts([{"text": ""}])
        assert refused.value.status == 422
        with pytest.raises(PlumblineError, match="no column 'c' in the first rows") as refused:
            plumbline.import_prompts([{"prompt": "a", "b": "A."}], columns={"c": "prompt"})
        assert refused.value.status == 422
        rows = [{"prompt": "a", "b": "A."}, {"prompt": "b", "b": "Bee, sea."}]
        report = plumbline.import_prompts(rows, columns={"b": "prompt", "prompt": "prompt_id"})
        plumbline.undo_import(plumbline.import_prompts([{"prompt": "Taken back."}]).id)
        prompts = list(plumbline.prompts())
        assert (report.read, [p.text for p in prompts]) == (2, ["A.", "Bee, sea."])
        batch = plumbline.ask_for_demonstrations("x", prompts=[prompts[0].id])
        assert plumbline.batches() == [batch]
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="0 of 1"):
            plumbline.wait_for_labels(batch.id, timeout=0.5)
        assert time.monotonic() - began < 5
        export = plumbline.export("prompts", freeze=True, formats=["jsonl"])
        ready = plumbline.download(export.id, out, timeout=30)
        assert (ready.rows, plumbline.exports()) == (2, [ready])
        snapshot = plumbline.snapshot(ready.snapshot_id or 0)
        assert (snapshot.records, plumbline.snapshots()) == (2, [snapshot])
        lines = [
            line
            for path in sorted((out / "jsonl").glob("*.jsonl"))
            for line in path.read_text("utf-8").splitlines()
        ]
        assert sorted(json.loads(line)["prompt"] for line in lines) == ["A.", "Bee, sea."]
    with Plumbline(url, token="plumb_no", study="quiet") as plumbline:
        with pytest.raises(PlumblineError) as refused:
            plumbline.batches()
        assert refused.value.status == 401
    with Plumbline("http://127.0.0.1:1", token="x", study="x") as plumbline:
        with pytest.raises(PlumblineError, match="did not answer") as refused:
            plumbline.batches()
        assert refused.value.status == 0
