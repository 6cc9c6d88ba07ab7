"""`plumbline demo`: one full round of a rehearsal, played through the running application.

A researcher signs in over HTTP and presses "Start the round"; simulated labelers sign in and label;
the workers train. This module only watches, and tells what it sees.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import make_engine, task_session
from app.home import ServiceError
from app.models import Role, Study, User
from app.services import people, rehearsal
from app.services.round_config import REHEARSAL
from app.simulation.accounts import Account
from app.simulation.workforce import Workforce
from app.terminal import RoundScreen, result_table
from trainer.contract import write_json

PEOPLE = {"researcher": Role.researcher, "labeler": Role.labeler, "heldout": Role.heldout_labeler}
LOGINS = "logins.json"
REPORT = "report.json"
POLL_SECONDS = 1.0
SIMULATED = {Role.labeler: 6, Role.heldout_labeler: 3}


class DemoFailed(ServiceError):
    """The round did not finish."""


@dataclass(frozen=True)
class Demo:
    """A demo study that is set up, and who may sign in to it."""

    slug: str
    logins: dict[str, str]  # password by user name
    accounts: dict[Role, list[Account]]  # of the simulated labelers


def demo_settings(settings: Settings) -> Settings:
    """The settings of the demo: everything in a folder of its own inside the home."""
    return settings.model_copy(update={"home": settings.home_path / "demo"})


def set_up(settings: Settings, database_url: str, seed: int) -> Demo:
    """Make the study, its people and the simulated labelers, or find them as they are."""
    logins = _logins(settings.home_path / LOGINS)
    engine = make_engine(database_url)
    try:
        with task_session(engine) as session:
            users = {name: _user(session, name, logins[name]) for name in PEOPLE}
            slug = "demo" if seed == 0 else f"demo-seed-{seed}"
            study = session.scalar(select(Study).where(Study.slug == slug))
            if study is None:
                study = rehearsal.create_demo_study(
                    session, slug=slug, seed=seed, created_by=users["researcher"]
                )
            for name, role in PEOPLE.items():
                people.add_member(session, study, users[name], role)
            accounts = {
                role: rehearsal.simulated_accounts(
                    session, study, labelers=count, role=role, seed=seed
                )
                for role, count in SIMULATED.items()
            }
            return Demo(slug, logins, accounts)
    finally:
        engine.dispose()


def _logins(path: Path) -> dict[str, str]:
    """Passwords of the demo's people, drawn once and kept where only this user reads them."""
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    logins = {name: secrets.token_urlsafe(9) for name in PEOPLE}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    write_json(path, logins)
    path.chmod(0o600)
    return logins


def _user(session: Session, name: str, password: str) -> User:
    user = session.scalar(select(User).where(func.lower(User.username) == name))
    if user is None:
        user = people.create_user(
            session,
            username=name,
            password=password,
            display_name=name.capitalize(),
            administrator=name == "researcher",
        )
    return user


class Researcher:
    """The researcher's browser, as far as the demo needs one."""

    def __init__(self, url: str, demo: Demo) -> None:
        self._client = httpx.Client(base_url=url, timeout=30)
        self._demo = demo
        self._study = f"/studies/{demo.slug}"
        self._post("/login", username="researcher", password=demo.logins["researcher"])

    def close(self) -> None:
        self._client.close()

    def _post(self, path: str, **fields: Any) -> httpx.Response:
        response = self._client.post(path, data=fields)
        if response.status_code != 303:
            raise DemoFailed(f"POST {path}: {response.status_code}")
        return response

    def latest_round(self) -> int | None:
        """The number of the study's newest round, None before the first."""
        answer = self._client.get(f"{self._study}/rounds.json")
        numbers = [round_["number"] for round_ in answer.raise_for_status().json()]
        return max(numbers, default=None)

    def start_round(self, seed: int, **fields: Any) -> int:
        """Send the form of a new round; `fields` replace the rehearsal's. Returns its number."""
        filled = {"seed": seed, **REHEARSAL, **fields}
        location = self._post(f"{self._study}/rounds", **filled).headers["location"]
        return int(location.rpartition("/")[2])

    def retry(self, number: int) -> None:
        self._post(f"{self._study}/rounds/{number}/retry")

    def status(self, number: int) -> dict[str, Any]:
        answer = self._client.get(f"{self._study}/rounds/{number}/status.json")
        return dict(answer.raise_for_status().json())


def play(
    url: str, demo: Demo, seed: int, console: Console, fields: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """See one round through, going on with one that was interrupted; returns its status.

    `fields` replace those of the rehearsal's form. Raises DemoFailed, with the trainer's words, if
    a run fails.
    """
    researcher = Researcher(url, demo)
    number = researcher.latest_round()
    if number is None:
        number = researcher.start_round(seed, **(fields or {}))
    elif (state := researcher.status(number)["state"]) == "failed":
        researcher.retry(number)
    elif state == "cancelled":
        number = researcher.start_round(seed, **(fields or {}))
    page = f"{url}/studies/{demo.slug}/rounds/{number}"
    console.print(f"Round {number} of the study “{demo.slug}”: watch it live at {page}")
    crew = _Crew(url, demo)
    try:
        with RoundScreen(console) as screen:
            while not (status := researcher.status(number))["over"]:
                screen.show(status)
                for stage in status["stages"]:
                    if stage["state"] == "waiting":
                        crew.call_in(stage)
                _raise_if_failed(status)
                time.sleep(POLL_SECONDS)
            screen.show(status)
    finally:
        crew.send_home()
        researcher.close()
    if status["state"] != "finished":
        raise DemoFailed(f"Round {number} is {status['state']}.")
    return status


def _raise_if_failed(status: dict[str, Any]) -> None:
    failed = [stage for stage in status["stages"] if stage["state"] in ("failed", "cancelled")]
    if status["state"] == "failed" and failed:
        reason = failed[0]["error"] or "it was cancelled"
        raise DemoFailed(f"{failed[0]['title']} failed: {reason}")


class _Crew:
    """The simulated labelers: called in when a stage waits, sent home when the round is over."""

    def __init__(self, url: str, demo: Demo) -> None:
        self._url, self._demo = url, demo
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._problem: BaseException | None = None

    def call_in(self, stage: dict[str, Any]) -> None:
        """Have the stage's pool label until nothing is left, unless labelers are at it already.

        Raises DemoFailed if labelers were refused.
        """
        if self._problem is not None:
            raise DemoFailed(str(self._problem)) from self._problem
        if self._thread is not None and self._thread.is_alive():
            return
        role = Role.heldout_labeler if stage["name"] == "evaluation" else Role.labeler
        workforce = Workforce(self._url, self._demo.slug, self._demo.accounts[role])

        def work() -> None:
            try:
                workforce.work(self._stop, until_idle=True)
            except RuntimeError as error:
                self._problem = error

        self._thread = threading.Thread(target=work, name="crew", daemon=True)
        self._thread.start()

    def send_home(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)


def report_of(status: dict[str, Any], minutes: float) -> dict[str, Any]:
    """The figures for report.json."""
    report = status["report"]
    agreement = report["agreement"]["training"]
    return {
        "minutes": round(minutes, 2),
        "seed": report["seed"],
        "rm_accuracy": report["rm_accuracy"]["rate"],
        "rm_accuracy_interval": [report["rm_accuracy"]["low"], report["rm_accuracy"]["high"]],
        "rm_comparisons": report["rm_accuracy"]["comparisons"],
        "longer_wins": report["rm_accuracy"]["longer_wins"],
        "agreement": agreement["rate"] if agreement else None,
        "agreement_interval": [agreement["low"], agreement["high"]] if agreement else None,
        "agreement_heldout": (report["agreement"]["heldout"] or {}).get("rate"),
        "win_rates": report["win_rates"],
        "mean_scores": report["mean_scores"],
        "labels": report["labels"],
        "stage_seconds": {s["name"]: s["seconds"] for s in status["stages"]},
    }


def finish(settings: Settings, status: dict[str, Any], seconds: float, console: Console) -> None:
    """Write the report and print the result.

    `seconds` is how long the command has taken; a round that was interrupted counts from its start.
    """
    report = report_of(status, max(seconds / 60, status["report"]["minutes"]))
    write_json(settings.home_path / REPORT, report)
    console.print(result_table(report))


def print_logins(url: str, demo: Demo, console: Console) -> None:
    console.print(f"\nPlumbline is at {url} (Ctrl-C stops it). Sign in as")
    for name, password in demo.logins.items():
        console.print(f"  {name:<11} {password}", highlight=False)
