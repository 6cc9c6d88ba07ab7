"""The app's reading of metrics.jsonl while a trainer writes it, and while one that resumes does."""

from __future__ import annotations

import json
from pathlib import Path

from app.execution import MetricsFile


def line(step: int, speed: float) -> str:
    values = {"speed/tokens_per_second": speed}
    return json.dumps({"step": step, "total_steps": 9, "time": 1.0, "values": values}) + "\n"


def steps(metrics: MetricsFile) -> list[int]:
    return [read.step for read in metrics.new_lines()]


def test_lines_come_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    assert steps(metrics) == []
    path.write_text(line(1, 5) + line(2, 5)[:9])
    assert steps(metrics) == [1]
    assert steps(metrics) == []
    path.write_text(line(1, 5) + line(2, 5))
    assert steps(metrics) == [2]


def test_lines_that_a_resumed_trainer_wrote_anew(tmp_path: Path) -> None:
    """Also where they are longer than those they replace: no line begins where one had ended."""
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    path.write_text(line(1, 5) + line(2, 5) + line(3, 5))
    assert steps(metrics) == [1, 2, 3]
    path.write_text(line(1, 5) + line(2, 55.5) + line(3, 5) + line(4, 5))
    assert steps(metrics) == [1, 2, 3, 4]
    path.write_text(line(1, 5))
    assert steps(metrics) == [1]
    path.write_text("")
    assert steps(metrics) == []
    path.write_text(line(1, 6))
    assert steps(metrics) == [1]
