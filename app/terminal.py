"""What the terminal shows of a round: a line a stage, with a bar, time left and figures."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from app.render import duration, number, percent

MARKS = {
    "pending": ("·", "dim"),
    "running": ("▶", "bold cyan"),
    "waiting": ("✎", "bold cyan"),
    "done": ("✓", "green"),
    "reused": ("✓", "green"),
    "failed": ("✗", "bold red"),
    "cancelled": ("✗", "red"),
}


def _figures(stage: dict[str, Any]) -> str:
    if stage["state"] == "pending":
        return ""
    if stage["labels"]:
        return f"{stage['done']} of {stage['total']} labels" if stage["total"] else ""
    shown = [f"{name} {number(value)}" for name, value in stage["figures"].items()]
    if stage["state"] == "running" and stage["phase"]:
        shown.insert(0, stage["phase"])
    return " · ".join(shown)


def _time(stage: dict[str, Any]) -> str:
    if stage["state"] in ("running", "waiting") and stage["seconds_left"] is not None:
        return f"{duration(stage['seconds_left'])} left"
    return duration(stage["seconds"]) if stage["seconds"] else ""


class RoundScreen:
    """Live lines on a terminal; on anything else a plain line at each change, and each ten seconds.

    Use as a context manager around calls of `show`.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._states: dict[str, str] = {}
        self._told = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def show(self, status: dict[str, Any]) -> None:
        """Show a round's status as `status.json` gives it."""
        if self._live is not None:
            self._live.update(_lines(status), refresh=True)
            return
        for stage in status["stages"]:
            name, state = stage["name"], stage["state"]
            begun = state in ("running", "waiting")
            changed = self._states.get(name) != state and state != "pending"
            if changed or (begun and status["seconds"] - self._told >= 10):
                self._states[name] = state
                self._told = status["seconds"]
                self._console.print(
                    f"{duration(status['seconds']):>11}  {stage['title']:<17}{state:<9}"
                    f" {_share(stage):>5}  {_time(stage):<15} {_figures(stage)}".rstrip(),
                    highlight=False,
                    soft_wrap=True,
                )


def _share(stage: dict[str, Any]) -> str:
    return percent(min(1.0, stage["done"] / stage["total"]), 0) if stage["total"] else ""


def _lines(status: dict[str, Any]) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    for stage in status["stages"]:
        mark, style = MARKS[stage["state"]]
        total = max(1, stage["total"])
        done = total if stage["state"] in ("done", "reused") else min(total, stage["done"])
        bar: RenderableType = (
            Text("") if stage["state"] == "pending" else ProgressBar(total, done, width=24)
        )
        table.add_row(
            Text(mark, style=style),
            Text(stage["title"], style="dim" if stage["state"] == "pending" else ""),
            bar,
            Text(_time(stage), style="dim"),
            Text(_figures(stage)),
        )
    return Group(table, Text(f"{duration(status['seconds'])} so far", style="dim"))


def result_table(report: dict[str, Any]) -> RenderableType:
    """Policy, win rate against SFT with its interval, mean score; labels used and minutes below."""
    table = Table(title="Blind evaluation by held-out labelers", title_justify="left")
    table.add_column("Policy")
    table.add_column("Win rate against SFT", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_column("Mean score", justify="right")
    against_sft = {row["policy"]: row for row in report["win_rates"] if row["baseline"] == "sft"}
    for policy in report["mean_scores"]:
        row = against_sft.get(policy)
        table.add_row(
            policy,
            percent(row["win_rate"]) if row else "–",
            f"{percent(row['low'])} to {percent(row['high'])}" if row else "–",
            number(report["mean_scores"][policy]),
        )
    labels = report["labels"]
    low, high = report["rm_accuracy_interval"]
    notes = [
        f"Labels used: {labels['demonstrations']} demonstrations, {labels['rankings']} rankings, "
        f"{labels['evaluation_rankings']} judgements · {report['minutes']:.1f} minutes",
        f"Reward model: {percent(report['rm_accuracy'])} of held-out comparisons right "
        f"({percent(low)} to {percent(high)}); labelers agree on {percent(report['agreement'])}; "
        f"longer wins {percent(report['longer_wins'])}",
    ]
    return Group(table, *(Text(note) for note in notes))
