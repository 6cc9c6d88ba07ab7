"""`plumbline cross-validate`."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer()


@app.command("cross-validate")
def cross_validate(
    run: Annotated[int, typer.Argument(min=1, help="The number of a reward model's run.")],
    groups: Annotated[int, typer.Option(min=2, help="Of labelers; each is left out once.")] = 5,
    seeds: Annotated[int, typer.Option(min=1, help="Of each group; the paper took 3.")] = 1,
) -> None:
    """Train a run's reward model without each group of labelers, and test it on them.

    It uses the data of the run on this host. Stopped and started again, it goes on.
    """
    import subprocess

    from app.config import get_settings
    from app.execution import trainer_command
    from app.services.run_views import run_directory

    directory = run_directory(run)
    if not directory.is_dir():
        typer.echo(f"Run {run} was not made on this host: {directory} is missing.", err=True)
        raise typer.Exit(1)
    command = trainer_command(get_settings(), "crossvalidate", directory)
    options = ("--groups", str(groups), "--seeds", str(seeds))
    raise typer.Exit(subprocess.run([*command, *options], check=False).returncode)
