"""The `plumbline` command. Each command is thin and imports what it needs when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from app import cli_data, cli_export, cli_loop, cli_systems, cli_train
from app.cli_loop import Port

app = typer.Typer(
    help="Collect human feedback and train on it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_data.app)  # study, user, member, import, rank-by-score
app.add_typer(cli_export.app)
app.add_typer(cli_systems.app)
app.add_typer(cli_train.app)  # cross-validate
app.add_typer(cli_loop.app)  # demo, clean-demo, simulate, starter-model


@app.command()
def up(port: Port = None) -> None:
    """Start everything and serve until Ctrl-C."""
    from app.config import Settings
    from app.home import ServiceError
    from app.supervisor import Supervisor

    settings = Settings() if port is None else Settings(port=port)
    try:
        with Supervisor(settings) as supervisor:
            typer.echo(f"Plumbline is at {supervisor.url} (Ctrl-C stops it)")
            supervisor.wait()
    except ServiceError as error:
        raise _failure(error) from error
    except KeyboardInterrupt:
        typer.echo("Stopped.")


@app.command()
def doctor() -> None:
    """Say what is in use and whether it answers; fails if something is wrong."""
    from rich.console import Console

    from app.config import get_settings
    from app.doctor import run_doctor

    if not run_doctor(get_settings(), Console()):
        raise typer.Exit(1)


@app.command()
def web(port: Port = None) -> None:
    """Serve the web application alone; PLUMBLINE_DATABASE_URL names the database."""
    from app.web import serve

    serve(port)


@app.command()
def worker(
    queue: Annotated[list[str], typer.Option(help="light, train; may be given twice.")],
    beat: Annotated[bool, typer.Option(help="Also send the periodic sweep.")] = False,
    alone: Annotated[
        bool,
        typer.Option(help="No other worker of this home trains: what one left behind is due now."),
    ] = False,
) -> None:
    """Run one Celery worker; PLUMBLINE_DATABASE_URL and PLUMBLINE_REDIS_URL name the services."""
    from app.worker import run_worker

    if alone:
        from app.execution import release_orphans

        release_orphans()
    run_worker(queue, beat=beat)


@app.command()
def migrate() -> None:
    """Bring the database to the newest schema."""
    from app.config import get_settings
    from app.embedded import reach_services
    from app.home import ServiceError
    from app.migrate import migrate as run
    from app.migrate import pending_migrations

    try:
        with reach_services(get_settings()) as urls:
            for line in pending_migrations(urls.database_url):
                typer.echo(line)
            run(urls.database_url)
    except ServiceError as error:
        raise _failure(error) from error


def _failure(error: Exception) -> typer.Exit:
    typer.echo(str(error), err=True)
    return typer.Exit(1)


if __name__ == "__main__":
    app()
