"""What the API takes and gives, as its OpenAPI document describes it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.models import (
    Batch,
    Export,
    ExportFormat,
    ExportKind,
    ExportShape,
    ExportState,
    LabelKind,
    Pool,
    Prompt,
    Purpose,
    Snapshot,
    SnapshotKind,
    Split,
    Study,
    Upload,
    UploadState,
    UseCase,
)
from app.services import exports
from app.services.batch_progress import BatchProgress
from app.services.usable import HELD


class StudyOut(BaseModel):
    slug: str
    name: str
    description: str
    rehearsal: bool = Field(description="Simulated labelers' labels count here, and only here.")

    @classmethod
    def of(cls, study: Study) -> StudyOut:
        return cls(
            slug=study.slug,
            name=study.name,
            description=study.description,
            rehearsal=study.rehearsal,
        )


class ImportOut(BaseModel):
    id: int
    kind: str
    file_name: str
    state: UploadState
    size: int = Field(description="Bytes.")
    bytes_done: int
    rows_done: int
    sentences: list[str] = Field(description="The report in words, once it is imported.")
    report: dict[str, Any] | None = Field(description="All counts, once it is imported.")
    problems: list[str] = Field(description="Why it was refused, by line. Nothing is stored then.")
    more_problems: int
    undone_at: datetime | None = Field(description="When what it brought was deleted again.")

    @classmethod
    def of(cls, upload: Upload, undone_at: datetime | None) -> ImportOut:
        result = upload.result or {}
        return cls(
            id=upload.id,
            kind=upload.kind,
            file_name=upload.file_name,
            state=upload.state,
            size=upload.size,
            bytes_done=upload.bytes_done,
            rows_done=upload.rows_done,
            sentences=result.get("sentences", []),
            report=result.get("report"),
            problems=result.get("problems", []),
            more_problems=result.get("more", 0),
            undone_at=undone_at,
        )


class PromptOut(BaseModel):
    id: int
    text: str
    split: Split
    external_id: str | None
    use_case: UseCase | None
    usable: bool = Field(description="Neither withdrawn nor held back for personal data.")
    created_at: datetime

    @classmethod
    def of(cls, prompt: Prompt) -> PromptOut:
        return cls(
            id=prompt.id,
            text=prompt.text,
            split=prompt.split,
            external_id=prompt.external_id,
            use_case=prompt.use_case,
            usable=prompt.withdrawn_at is None and prompt.pii_state not in HELD,
            created_at=prompt.created_at,
        )


class PromptPage(BaseModel):
    items: list[PromptOut]
    next: str | None = Field(description="The cursor of the next page; null on the last.")


class BatchOut(BaseModel):
    id: int
    name: str
    kind: LabelKind
    purpose: Purpose
    pool: Pool
    labels_wanted: int
    labels_done: int
    finished: bool
    created_at: datetime

    @classmethod
    def of(cls, batch: Batch, progress: BatchProgress) -> BatchOut:
        return cls(
            id=batch.id,
            name=batch.name,
            kind=batch.kind,
            purpose=batch.purpose,
            pool=batch.pool,
            labels_wanted=progress.labels_wanted,
            labels_done=progress.labels_done,
            finished=progress.finished,
            created_at=batch.created_at,
        )


class BatchIn(BaseModel):
    """Label tasks that ask for demonstrations."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    count: int | None = Field(
        default=None, ge=1, le=1_000_000, description="So many prompts that have no task yet."
    )
    prompts: list[int] | None = Field(
        default=None, max_length=100_000, description="Or these, by id."
    )
    splits: list[Split] = Field(default=[], description="Of `count`; train and valid if empty.")
    labels_per_prompt: int = Field(default=1, ge=1, le=100)
    purpose: Purpose = Purpose.training
    pool: Pool = Pool.training


class ExportIn(BaseModel):
    """What to take out; see the kinds in the documentation of exports."""

    model_config = ConfigDict(extra="forbid")

    kind: ExportKind
    shape: ExportShape = ExportShape.text
    formats: list[ExportFormat] = [ExportFormat.jsonl, ExportFormat.parquet]
    splits: list[Split] = list(Split)
    simulated: bool = Field(default=False, description="Also labels of simulated labelers.")
    withdrawn: bool = Field(default=False, description="Also of withdrawn labelers and prompts.")
    heldout: bool = Field(default=False, description="Also labels that judge, not to train on.")
    held: bool = Field(default=False, description="Also about prompts held for personal data.")
    snapshot_id: int | None = Field(default=None, description="Only what this snapshot holds.")
    labeler: str | None = Field(default=None, description="Kind labeler: the user name.")
    prompt_id: int | None = Field(default=None, description="Kind prompt: which.")
    freeze: bool = Field(default=False, description="Make a snapshot of it first.")


class ExportOut(BaseModel):
    id: int
    kind: ExportKind
    state: ExportState
    rows: int = Field(description="Written so far, or all of them once it is ready.")
    error: str | None = Field(description="Why it failed, in words.")
    snapshot_id: int | None
    sha256: str | None
    files: list[str] = Field(description="What can be downloaded once it is ready.")
    manifest: dict[str, Any] | None
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, export: Export) -> ExportOut:
        return cls(
            id=export.id,
            kind=export.kind,
            state=export.state,
            rows=export.rows_done,
            error=export.error,
            snapshot_id=export.snapshot_id,
            sha256=export.manifest["sha256"] if export.manifest else None,
            files=exports.file_names(export),
            manifest=export.manifest,
            created_at=export.created_at,
            finished_at=export.finished_at,
        )


class SnapshotOut(BaseModel):
    id: int
    kind: SnapshotKind
    sha256: str
    records: int
    counts: dict[str, Any]
    query: dict[str, Any]
    withdrawn_since: int = Field(description="Its labels or prompts that were withdrawn since.")
    created_at: datetime

    @classmethod
    def of(cls, snapshot: Snapshot, withdrawn_since: int) -> SnapshotOut:
        return cls(
            id=snapshot.id,
            kind=snapshot.kind,
            sha256=snapshot.sha256,
            records=snapshot.records,
            counts=snapshot.counts,
            query=snapshot.query,
            withdrawn_since=withdrawn_since,
            created_at=snapshot.created_at,
        )


class Problem(BaseModel):
    """Every refusal."""

    error: str
    detail: str
