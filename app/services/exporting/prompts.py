"""Prompts without labels, for PPO."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import ExportShape, Prompt, SourceUser, Study
from app.services.exporting.columns import Chunk, Column, Messages, Type, everything
from app.services.exporting.query import ExportQuery
from app.services.exporting.selection import prompt_rows, written_by_labeler
from app.services.exporting.tally import ORIGINS, Tally

FIELDS = {
    "split": Type.text,
    "prompt_id": Type.integer,
    "external_id": Type.text,
    "user": Type.text,
    "origin": Type.text,
    "use_case": Type.text,
    "closed_domain": Type.flag,
    "constraint": Type.text,
}


def source_pseudonym(study: Study, name: str) -> str:
    """A source user's name in datasets: stable within the study, telling nothing outside it."""
    digest = hmac.digest(study.split_key.encode(), f"source:{name}".encode(), "sha256")
    return "user-" + digest.hex()[:10]


def read_prompts(
    session: Session, study: Study, query: ExportQuery, tally: Tally
) -> Iterator[tuple[str, Chunk]]:
    """Chunks of the prompts that the query takes, one split at a time."""
    found = prompt_rows(
        session,
        study,
        query,
        Prompt.id.label("prompt_id"),
        Prompt.text,
        Prompt.split,
        Prompt.external_id,
        _source_name(),
        Prompt.use_case,
        Prompt.closed_domain,
        Prompt.constraint_text,
        written_by_labeler().label("written"),
    )
    for rows in found:
        for split in query.splits:
            mine = [row for row in rows if row.split is split]
            if not mine:
                continue
            for row in mine:
                tally.add(row, 1)
            texts = everything([row.text for row in mine])
            messages = query.shape is ExportShape.messages
            prompt: Column = Messages([("user", texts)]) if messages else texts
            yield (
                split.value,
                {
                    "prompt": prompt,
                    "split": everything([split.value] * len(mine)),
                    "prompt_id": [row.prompt_id for row in mine],
                    "external_id": [row.external_id for row in mine],
                    "user": [source_pseudonym(study, row.source) for row in mine],
                    "origin": [ORIGINS[row.written] for row in mine],
                    "use_case": [row.use_case.value if row.use_case else None for row in mine],
                    "closed_domain": [row.closed_domain for row in mine],
                    "constraint": [row.constraint_text for row in mine],
                },
            )


def _source_name() -> Any:
    return (
        select(SourceUser.name)
        .where(SourceUser.id == Prompt.source_user_id)
        .correlate(Prompt)
        .scalar_subquery()
        .label("source")
    )
