"""`plumbline study`, `user`, `member`, `import`, `undo-import`, `pretraining-text` and so on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from app.config import Settings

app = typer.Typer()
study_app = typer.Typer(help="Make studies.", no_args_is_help=True)
user_app = typer.Typer(help="Make accounts.", no_args_is_help=True)
member_app = typer.Typer(help="Give accounts a role in a study.", no_args_is_help=True)
import_app = typer.Typer(help="Import prompts, completions and labels.", no_args_is_help=True)
app.add_typer(study_app, name="study")
app.add_typer(user_app, name="user")
app.add_typer(member_app, name="member")
app.add_typer(import_app, name="import")

StudySlug = Annotated[str, typer.Option("--study", help="The study's address, such as my-study.")]
File = Annotated[Path, typer.Argument(help="JSONL or CSV in UTF-8, or Parquet; plain or gzip.")]
Column = Annotated[
    list[str] | None,
    typer.Option(help="NAME=MEANING: read a column under another name. May be repeated."),
]


@contextmanager
def _database() -> Iterator[Session]:
    """A transaction on the configured database, or on the bundled one of this installation.

    Refusals are printed in their own words and end the command with status 1.
    """
    from sqlalchemy.exc import OperationalError

    from app.config import get_settings
    from app.db import make_engine, task_session
    from app.errors import DomainError
    from app.home import ServiceError

    try:
        with _database_url(get_settings()) as url:
            engine = make_engine(url)
            try:
                with task_session(engine) as session:
                    yield session
            finally:
                engine.dispose()
    except (DomainError, ServiceError) as error:
        raise _refuse(str(error)) from error
    except OperationalError as error:
        raise _refuse(f"The database cannot be reached: {error.orig}") from error


@contextmanager
def _database_url(settings: Settings) -> Iterator[str]:
    """The configured database, or the bundled one: of the instance that runs, else started here."""
    from app.embedded import reach_services
    from app.home import ServiceError
    from app.migrate import migrate, pending_migrations

    if settings.database_url:
        if pending_migrations(settings.database_url):
            raise ServiceError("The database has an older schema: run `plumbline migrate` first.")
        yield settings.database_url
    else:
        with reach_services(settings) as urls:
            migrate(urls.database_url)
            yield urls.database_url


def _refuse(message: str) -> typer.Exit:
    typer.echo(message, err=True)
    return typer.Exit(1)


@study_app.command("create")
def create_study(
    name: str,
    slug: Annotated[str | None, typer.Option(help="Its address; made from the name.")] = None,
    rehearsal: Annotated[
        bool, typer.Option("--rehearsal", help="Simulated labelers may join; for good.")
    ] = False,
    description: str = "",
    researcher: Annotated[str | None, typer.Option(help="User name of who leads it.")] = None,
) -> None:
    """Make a study with the guidelines that studies start from."""
    from app.services import members, studies

    with _database() as session:
        leader = members.find_user(session, researcher) if researcher else None
        study = studies.create_study(
            session,
            name=name,
            slug=slug,
            rehearsal=rehearsal,
            description=description,
            created_by=leader,
        )
        slug = study.slug
    typer.echo(f"Made the study {name}: /studies/{slug}")


@user_app.command("create")
def create_user(
    username: str,
    name: Annotated[str, typer.Option(help="As colleagues know them.")] = "",
    administrator: Annotated[
        bool, typer.Option("--administrator", help="May do everything in every study.")
    ] = False,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
) -> None:
    """Make an account. Without --password-stdin its password is made up and printed once."""
    from app.services import members, people

    given = typer.get_text_stream("stdin").readline().rstrip("\r\n") if password_stdin else None
    password = members.generate_password() if given is None else given
    with _database() as session:
        people.create_user(
            session,
            username=username,
            password=password,
            display_name=name,
            administrator=administrator,
        )
    typer.echo(
        f"Made the account {username}." + ("" if password_stdin else f" Password: {password}")
    )


@member_app.command("add")
def add_member(
    username: str,
    study: StudySlug,
    role: Annotated[str, typer.Option(help="labeler, heldout_labeler or researcher.")] = "labeler",
) -> None:
    """Give an account a role in a study."""
    from app.services import members, people, studies

    with _database() as session:
        found = studies.find_study(session, study)
        user = members.find_user(session, username)
        people.add_member(session, found, user, members.role_of(role))
    typer.echo(f"{username} is in {study} as {role.replace('_', '-')}.")


@import_app.command("prompts")
def import_prompts(file: File, study: StudySlug, column: Column = None) -> None:
    """Import prompts: all of the file, or nothing."""
    _import("prompts", file, study, column or [])


@import_app.command("completions")
def import_completions(file: File, study: StudySlug, column: Column = None) -> None:
    """Import other systems' completions of prompts that the study has."""
    _import("completions", file, study, column or [])


@import_app.command("demonstrations")
def import_demonstrations(file: File, study: StudySlug, column: Column = None) -> None:
    """Import prompts with the completion that the assistant should give, or chats."""
    _import("demonstrations", file, study, column or [])


@import_app.command("comparisons")
def import_comparisons(file: File, study: StudySlug, column: Column = None) -> None:
    """Import chosen and rejected completions, or dialogues."""
    _import("comparisons", file, study, column or [])


@import_app.command("rankings")
def import_rankings(file: File, study: StudySlug, column: Column = None) -> None:
    """Import completions in tie groups or with ranks, or message trees."""
    _import("rankings", file, study, column or [])


@app.command("undo-import")
def undo_import(number: int, study: StudySlug) -> None:
    """Delete what import N stored, while nothing depends on it."""
    from app.services import import_undo, studies

    with _database() as session:
        found = studies.find_study(session, study)
        file_name = import_undo.undo_import(session, found, number).file_name
    typer.echo(f"Import {number} ({file_name}) is undone: what it brought is gone.")


@app.command("pretraining-text")
def pretraining_text(file: File, study: StudySlug) -> None:
    """Give a study text for the pretraining mix of RL, one document a row in a column `text`.

    For base models from elsewhere; a starter brings its own. The newest text is used.
    """
    from app.services import pretraining, studies

    with _readable(file) as opened, _database() as session:
        found = studies.find_study(session, study)
        snapshot = pretraining.import_text(session, found, opened, file_name=file.name)
        number, count = snapshot.id, snapshot.records
    typer.echo(f"Snapshot {number}: {count:,} texts, which the study's next rounds mix in.")


@contextmanager
def _readable(path: Path) -> Iterator[BinaryIO]:
    """The open file. One that cannot be read, or only once, ends the command with status 1."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise _refuse(f"{path} cannot be read: {error.strerror}.") from error
    with file:
        if not file.seekable():
            raise _refuse(f"{path} is a pipe: files are read twice, so write it to the disk first.")
        yield file


def _import(kind: str, path: Path, slug: str, named: Sequence[str]) -> None:
    from app.services import studies, uploads
    from app.services.imports import IMPORTERS

    with _readable(path) as file, _database() as session:
        study = studies.find_study(session, slug)
        mapping = uploads.mapping_of(kind, uploads.named_columns(named))
        report = IMPORTERS[kind](session, study, file, file_name=path.name, mapping=mapping)
    for sentence in report.sentences():
        typer.echo(sentence)
    typer.echo(", ".join(f"{words}: {count:,}" for words, count in report.counts().items()))
    if report.import_id is not None:
        typer.echo(f"This is import {report.import_id}: `plumbline undo-import` takes it back.")


@app.command("rank-by-score")
def rank_by_score(
    study: StudySlug,
    labeler: Annotated[str, typer.Option(help="Name of the simulated labeler.")] = "judge",
) -> None:
    """Rank imported completions by the score they came with. In rehearsals only."""
    import time

    from app.services import judge, studies

    began = time.monotonic()
    with _database() as session:
        judged = judge.rank_by_score(
            session, studies.find_study(session, study), labeler_name=labeler
        )
    if judged.batch is None:
        typer.echo("Nothing new: every prompt with scored completions is ranked already.")
        return
    sizes = ", ".join(f"{count:,} of K = {k}" for k, count in sorted(judged.sizes.items()))
    typer.echo(
        f"{judged.rankings:,} rankings ({sizes}), {judged.tied:,} of them with ties, "
        f"in {time.monotonic() - began:.1f} s."
    )
