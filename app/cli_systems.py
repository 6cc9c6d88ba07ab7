"""`plumbline system`: external systems behind OpenAI-compatible endpoints."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli_data import StudySlug, _database, _refuse

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from app.models import ExternalSystem, Study
    from app.services.external.samplings import SamplingView

app = typer.Typer()
system_app = typer.Typer(help="Sample external systems by their endpoints.", no_args_is_help=True)
app.add_typer(system_app, name="system")

Name = Annotated[str, typer.Argument(help="The system's name.")]
POLL_SECONDS = 1.0


@system_app.command("add")
def add(
    name: Name,
    study: StudySlug,
    url: Annotated[str, typer.Option(help="Base URL, such as http://127.0.0.1:8001/v1.")],
    model: Annotated[str, typer.Option(help="As the endpoint calls it.")],
    api: Annotated[str, typer.Option(help="chat or completions.")] = "chat",
    temperature: Annotated[str, typer.Option(help='"" sends none; so for the next three.')] = "1",
    top_p: str = "",
    max_tokens: str = "512",
    seed: str = "",
    stop: Annotated[
        list[str] | None, typer.Option(help="A text that ends an answer; \\n is a line break.")
    ] = None,
    prefix: Annotated[
        Path | None, typer.Option(help="A file with a few-shot prefix; see docs/external.md.")
    ] = None,
    key_variable: Annotated[
        str, typer.Option(help="The environment variable that holds the API key: PLUMBLINE_KEY_….")
    ] = "",
    at_a_time: Annotated[str, typer.Option(help="Requests under way together.")] = "4",
    per_minute: Annotated[str, typer.Option(help="Requests a minute.")] = "",
    timeout: Annotated[str, typer.Option(help="Seconds to wait for an answer.")] = "120",
) -> None:
    """Add a system: an external policy whose completions are sampled."""
    from app.services import studies
    from app.services.external import systems
    from app.services.external.settings import system_settings

    try:
        shots = prefix.read_text(encoding="utf-8") if prefix is not None else ""
    except (OSError, UnicodeDecodeError) as error:
        raise _refuse(f"{prefix} cannot be read: {error}.") from error
    with _database() as session:
        settings = system_settings(
            {
                "base_url": url,
                "model": model,
                "api": api,
                "temperature": temperature,
                "top_p": top_p,
                "max_tokens": max_tokens,
                "seed": seed,
                "stop": [text.replace("\\n", "\n") for text in stop or ()],
                "prefix": shots,
                "key_variable": key_variable,
                "at_a_time": at_a_time,
                "per_minute": per_minute,
                "timeout_seconds": timeout,
            }
        )
        made = systems.add_system(session, studies.find_study(session, study), name, settings)
        address = f"/studies/{study}/systems/{made.policy_id}"
    typer.echo(f"Added {name}: {address}. Try it: plumbline system try {name!r} --study {study}")


@system_app.command("try")
def try_it(
    name: Name,
    study: StudySlug,
    prompt: Annotated[str, typer.Option(help="What it is asked.")] = "Say hello.",
) -> None:
    """Ask a system one prompt and print the answer; nothing is stored."""
    from app.services.external import endpoint, systems

    with _database() as session:
        settings = systems.settings_of(_found(session, study, name)[1])
    try:
        answer = endpoint.try_prompt(settings, prompt, seconds=settings.timeout_seconds)
    except endpoint.EndpointProblem as problem:
        raise _refuse(str(problem)) from problem
    typer.echo(answer.text)


@system_app.command("list")
def list_systems(study: StudySlug) -> None:
    """The study's systems with what they have completed."""
    from app.services import studies
    from app.services.external import systems

    with _database() as session:
        found = systems.systems_of(session, studies.find_study(session, study))
    for each in found:
        state = f", last sampling {each.last.state.value}" if each.last is not None else ""
        typer.echo(
            f"{each.policy.name}: {each.settings.model} at {each.settings.base_url}; "
            f"{each.completions:,} completions of {each.prompts:,} prompts{state}"
        )
    if not found:
        typer.echo("No external systems yet: plumbline system add NAME …")


@system_app.command("sample")
def sample(
    name: Name,
    study: StudySlug,
    split: Annotated[list[str] | None, typer.Option(help="train, valid or test.")] = None,
    batch: Annotated[int | None, typer.Option(help="Instead: the prompts of batch N.")] = None,
    count: Annotated[int | None, typer.Option(help="So many prompts; all if not given.")] = None,
    completions: Annotated[
        int, typer.Option("-n", "--completions", help="A prompt shall have, in all.")
    ] = 1,
    wait: Annotated[bool, typer.Option(help="Until the worker is done.")] = True,
) -> None:
    """Have the worker ask a system for what its prompts lack; again asks for no more."""
    from app.services.external import samplings

    asked = {"splits": split or [], "batch": batch, "count": count, "completions": completions}
    with _database() as session:
        choice = samplings.read_choice(asked)
        found, system = _found(session, study, name)
        try:
            sampling = samplings.start_sampling(session, found, system, choice)
        except samplings.NothingToSample as nothing:
            typer.echo(f"{nothing} There is nothing to ask for.")
            return
        _leave_to_the_sweep(session)
        number, words = sampling.id, choice.words
    typer.echo(f"Sampling {number}: {words}.")
    if wait:
        _follow(study, number)


@system_app.command("status")
def status(name: Name, study: StudySlug) -> None:
    """How far a system's samplings are, newest first."""
    from app.services.external import samplings

    with _database() as session:
        _, system = _found(session, study, name)
        views = samplings.samplings_of(session, system.policy_id)
    for view in views:
        typer.echo(f"Sampling {view.sampling.id} ({view.words}): {_said(view)}")
    if not views:
        typer.echo("Not sampled yet.")


@system_app.command("cancel")
def cancel(
    number: Annotated[int, typer.Argument(help="Of the sampling.")], study: StudySlug
) -> None:
    """Stop a sampling; what came is kept."""
    from app.services import studies
    from app.services.external import samplings

    with _database() as session:
        found = studies.find_study(session, study)
        samplings.cancel(session, samplings.find_sampling(session, found, number))
    typer.echo(f"Sampling {number} is cancelled; what came is kept.")


@system_app.command("retry")
def retry(
    number: Annotated[int, typer.Argument(help="Of the sampling.")],
    study: StudySlug,
    wait: Annotated[bool, typer.Option(help="Until the worker is done.")] = True,
) -> None:
    """Ask again for what a sampling lacks."""
    from app.services import studies
    from app.services.external import samplings

    with _database() as session:
        found = studies.find_study(session, study)
        samplings.retry(session, samplings.find_sampling(session, found, number))
        _leave_to_the_sweep(session)
    typer.echo(f"Sampling {number} goes on.")
    if wait:
        _follow(study, number)


def _found(session: Session, slug: str, name: str) -> tuple[Study, ExternalSystem]:
    from app.services import studies
    from app.services.external import systems

    study = studies.find_study(session, slug)
    return study, systems.system_named(session, study, name)


def _leave_to_the_sweep(session: Session) -> None:
    """The worker finds the row within seconds; from here its broker may not be reachable."""
    from app.db import OUTBOX

    session.info.pop(OUTBOX, None)


def _follow(study: str, number: int) -> None:
    """Print how far it is until it is over; Ctrl-C leaves it to the worker."""
    from app.services import studies
    from app.services.external import samplings

    last = ""
    try:
        with _database() as session:
            found = studies.find_study(session, study)
            policy_id = samplings.find_sampling(session, found, number).policy_id
            while True:
                session.rollback()  # to see what others have written since
                views = samplings.samplings_of(session, policy_id)
                view = next(view for view in views if view.sampling.id == number)
                said = _said(view)
                if said != last:
                    typer.echo(said)
                    last = said
                if not view.under_way:
                    break
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        typer.echo("It goes on in the worker; `plumbline system status` says how far it is.")
        return
    for prompt_id, problem in view.problems:
        typer.echo(f"prompt {prompt_id}: {problem}", err=True)
    if view.sampling.state.value == "failed":
        raise typer.Exit(1)


def _said(view: SamplingView) -> str:
    sampling, progress = view.sampling, view.progress
    said = f"{sampling.state.value}, {progress.done:,} of {progress.total:,} completions are there"
    if progress.failed:
        said += f", {progress.failed:,} cannot be had"
    return f"{said}. {sampling.error or sampling.note or ''}".rstrip()
