"""`plumbline demo`, `clean-demo`, `simulate` and `starter-model`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

Port = Annotated[int | None, typer.Option(min=1, max=65535, help="Instead of PLUMBLINE_PORT.")]


def _refuse(error: Exception) -> typer.Exit:
    typer.echo(str(error), err=True)
    return typer.Exit(1)


@app.command()
def demo(
    port: Port = None,
    seed: Annotated[int, typer.Option(min=0, help="Each seed is a study of its own.")] = 0,
    exit: Annotated[bool, typer.Option("--exit", help="End when the round is over.")] = False,
) -> None:
    """Play one full round with simulated labelers, then serve it until Ctrl-C."""
    import time

    from rich.console import Console

    from app import demo as play
    from app.config import Settings
    from app.home import ServiceError
    from app.supervisor import Supervisor

    began = time.monotonic()
    settings = play.demo_settings(Settings() if port is None else Settings(port=port))
    console = Console()
    try:
        with Supervisor(settings, say=console.print) as supervisor:
            urls = supervisor.services.urls
            found = play.set_up(settings, urls.database_url, seed)
            play.print_logins(supervisor.url, found, console)
            status = play.play(supervisor.url, found, seed, console)
            play.finish(settings, status, time.monotonic() - began, console)
            if not exit:
                play.print_logins(supervisor.url, found, console)
                supervisor.wait()
    except ServiceError as error:
        raise _refuse(error) from error
    except KeyboardInterrupt:
        typer.echo("Stopped. The same command goes on from here; `make clean-demo` removes it.")
        raise typer.Exit(0 if not exit else 130) from None


@app.command("clean-demo")
def clean_demo() -> None:
    """Remove the demo and everything it made."""
    import shutil

    from app.config import Settings
    from app.demo import demo_settings
    from app.home import already_running, running_instance

    settings = demo_settings(Settings())
    running = running_instance(settings)
    if running is not None:
        raise _refuse(RuntimeError(already_running(settings, running) + "; stop it first."))
    shutil.rmtree(settings.home_path, ignore_errors=True)
    typer.echo(f"Removed {settings.home_path}")


@app.command()
def simulate(
    study: Annotated[str, typer.Option(help="The study's address, such as my-study.")],
    labelers: Annotated[int, typer.Option(min=0, max=500)] = 6,
    heldout: Annotated[int, typer.Option(min=0, max=500, help="Held-out labelers.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of how they judge.")] = 0,
    keep_on: Annotated[bool, typer.Option(help="Wait for more work until Ctrl-C.")] = False,
    url: Annotated[
        str | None, typer.Option(help="Of the web server; found by itself here.")
    ] = None,
) -> None:
    """Have simulated labelers do the waiting label tasks of a rehearsal, over HTTP."""
    import threading

    from app.config import get_settings
    from app.db import make_engine, task_session
    from app.embedded import reach_services
    from app.errors import DomainError
    from app.home import ServiceError, running_instance
    from app.models import Role
    from app.services import rehearsal, studies
    from app.simulation.workforce import Workforce, WorkforceError

    settings = get_settings()
    running = running_instance(settings)
    address = url or (running.address if running is not None else None)
    if address is None:
        raise _refuse(RuntimeError("No Plumbline runs here: start it (make up), or give --url."))
    try:
        with reach_services(settings) as urls:
            engine = make_engine(urls.database_url)
            with task_session(engine) as session:
                found = studies.find_study(session, study)
                accounts = [
                    account
                    for role, count in ((Role.labeler, labelers), (Role.heldout_labeler, heldout))
                    for account in rehearsal.simulated_accounts(
                        session, found, labelers=count, role=role, seed=seed
                    )
                ]
            engine.dispose()
            workforce = Workforce(address, study, accounts)
            workforce.work(threading.Event(), until_idle=not keep_on)
    except (ServiceError, DomainError, WorkforceError) as error:
        raise _refuse(error) from error
    except KeyboardInterrupt:
        pass
    typer.echo(f"{workforce.labels} labels submitted.")


@app.command("starter-model")
def starter_model(
    out: Annotated[Path, typer.Option(help="The folder for the checkpoint; must not exist yet.")],
    text: Annotated[
        list[Path] | None,
        typer.Option(exists=True, help="Text files to train on; the demo's texts when left out."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Instead of the preset's.")] = None,
) -> None:
    """Train a small base model and its tokenizer here, without a model hub."""
    from app.starter import StarterError, build_starter

    try:
        build_starter(out, text or [], seed=seed, steps=steps, say=typer.echo)
    except StarterError as error:
        raise _refuse(error) from error
