"""`plumbline export`: a study's data into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli_data import StudySlug, _database, _refuse

app = typer.Typer()

# Spelled out: the models load with the database, only when a command runs.
KINDS = "sft, rankings, comparisons, preferences, ratings, prompts, labeler or prompt"


@app.command("export")
def export(
    kind: Annotated[str, typer.Argument(help=f"What of it: {KINDS}.")],
    study: StudySlug,
    out: Annotated[Path, typer.Option(help="A folder that is empty or not there yet.")],
    form: Annotated[
        list[str] | None, typer.Option("--format", help="jsonl or parquet; both if not given.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="train, valid or test; all if not given.")
    ] = None,
    messages: Annotated[
        bool, typer.Option("--messages", help="Prompts and completions as chat messages.")
    ] = False,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Also labels of simulated labelers.")
    ] = False,
    withdrawn: Annotated[
        bool, typer.Option("--withdrawn", help="Also of withdrawn labelers and prompts.")
    ] = False,
    heldout: Annotated[
        bool, typer.Option("--heldout", help="Also labels that judge: they are not to train on.")
    ] = False,
    held: Annotated[
        bool, typer.Option("--held", help="Also about prompts held back for personal data.")
    ] = False,
    snapshot: Annotated[int | None, typer.Option(help="Only what is in this snapshot.")] = None,
    labeler: Annotated[str | None, typer.Option(help="Kind labeler: the user name.")] = None,
    prompt: Annotated[int | None, typer.Option(help="Kind prompt: its number.")] = None,
) -> None:
    """Write a dataset as JSONL and Parquet, with a manifest that says what was left out."""
    from app.services import members, studies
    from app.services.exporting.card import left_out_sentences
    from app.services.exporting.export import write_export
    from app.services.exporting.query import ExportQuery

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise _refuse(f"{out} is there already, and not an empty folder.")
    asked = {
        "kind": kind,
        "shape": "messages" if messages else "text",
        "simulated": simulated,
        "withdrawn": withdrawn,
        "heldout": heldout,
        "held": held,
        "snapshot_id": snapshot,
        "prompt_id": prompt,
        **({"formats": form} if form else {}),
        **({"splits": split} if split else {}),
    }
    with _database() as session:
        # Of one moment, however long it takes.
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        found = studies.find_study(session, study)
        if labeler is not None:
            asked["user_id"] = members.find_user(session, labeler).id
        query = ExportQuery.from_json(asked)
        out.mkdir(parents=True, exist_ok=True)
        manifest = write_export(session, found, query, out)
    typer.echo(
        f"{manifest['rows']:,} rows in {len(manifest['files'])} files in {out}; the dataset is "
        f"{manifest['sha256'][:12]}."
    )
    for sentence in left_out_sentences(manifest):
        typer.echo(sentence)
