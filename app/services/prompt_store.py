"""Storing prompts by COPY, and writing down those that are not. For services.prompts only."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import FoldedPrompt, FoldReason, PiiState, Prompt, Split, Study
from app.services.bulk import among, copy_rows, next_ids
from app.services.preparation.sifting import Folded, Prepared

if TYPE_CHECKING:
    from app.services.prompts import AddedPrompts, PromptRow

_COLUMNS = (
    "id",
    "study_id",
    "source_user_id",
    "split",
    "text",
    "text_sha256",
    "external_id",
    "use_case",
    "closed_domain",
    "constraint_text",
    "few_shot",
    "details",
    "import_id",
    "language",
    "tokens",
    "duplicate_group",
    "pii_state",
    "pii_spans",
    "suggested_use_case",
    "suggested_confidence",
)


def store_prompts(
    session: Session,
    study: Study,
    chosen: Sequence[tuple[PromptRow, Prepared | None]],
    users: Mapping[str, tuple[int, Split]],
    import_id: int | None,
) -> list[int]:
    """Ids in the order of `chosen`."""
    if not chosen:
        return []
    ids = next_ids(session, Prompt, len(chosen))
    copy_rows(
        session,
        Prompt,
        _COLUMNS,
        (
            (
                key,
                study.id,
                *users[row.source],
                row.text,
                row.sha256,
                row.external_id,
                row.use_case,
                row.closed_domain,
                row.constraint_text,
                json.dumps(row.few_shot.to_json()) if row.few_shot else None,
                json.dumps(row.details) if row.details else "{}",
                import_id,
                *_found_out(prepared),
            )
            for key, (row, prepared) in zip(ids, chosen, strict=True)
        ),
    )
    return ids


def _found_out(prepared: Prepared | None) -> tuple[Any, ...]:
    if prepared is None:
        return (None, None, None, PiiState.clear.value, None, None, None)
    found = prepared.found
    spans = [{"kind": span.kind, "start": span.start, "end": span.end} for span in found.spans]
    suggestion = found.suggestion
    return (
        found.language,
        found.tokens,
        prepared.group,
        (PiiState.held if spans else PiiState.clear).value,
        json.dumps(spans) if spans else None,
        suggestion.use_case if suggestion else None,
        suggestion.confidence if suggestion else None,
    )


def write_down(
    session: Session,
    study: Study,
    rows: Sequence[PromptRow],
    chosen: Collection[int],
    folded: Sequence[Folded],
    stored: Mapping[str, int],
    names: set[str],
    added: AddedPrompts,
    import_id: int | None,
) -> None:
    """Count what was not stored, and keep its reason and the names that it came with.

    An exact duplicate is kept for its name only: it differs in nothing else.
    """
    why = {fold.row.sha256: fold for fold in folded}
    known = _folded_texts(session, study, why) if why else set()
    values = []
    for row in rows:
        fold = why.get(row.sha256)
        key = stored.get(row.sha256)
        if fold is not None:
            stands = fold.stands
            key = stands if isinstance(stands, int | None) else stored[stands.row.sha256]
        added.prompt_ids.append(key)
        new_name = row.external_id is not None and row.external_id not in names
        if id(row) not in chosen:
            reason = fold.reason if fold is not None else FoldReason.exact
            added.fold(reason, row.line)
            if new_name or (fold is not None and row.sha256 not in known):
                name = row.external_id if new_name else None
                similarity = fold.similarity if fold is not None else None
                values.append(
                    (study.id, import_id, row.line, name, row.sha256, reason, key, similarity)
                )
                known.add(row.sha256)
        if row.external_id is not None:
            names.add(row.external_id)
    columns = (
        "study_id",
        "import_id",
        "line",
        "external_id",
        "text_sha256",
        "reason",
        "prompt_id",
        "similarity",
    )
    if values:
        copy_rows(session, FoldedPrompt, columns, values)


def _folded_texts(session: Session, study: Study, texts: Collection[str]) -> set[str]:
    found = select(FoldedPrompt.text_sha256).where(
        FoldedPrompt.study_id == study.id, among(FoldedPrompt.text_sha256, texts)
    )
    return set(session.scalars(found))
