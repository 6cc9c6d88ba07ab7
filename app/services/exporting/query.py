"""What an export is asked for, as it is stored with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

from app.errors import Invalid
from app.models import ExportFormat, ExportKind, ExportShape, Split

# Of rows that are left out unless they are asked for: the query's field, and why in words.
REASONS: Final[Mapping[str, str]] = {
    "simulated": "given by simulated labelers",
    "withdrawn": "of a labeler or prompt that was withdrawn",
    "heldout": "given to judge and not to train: by the held-out pool, or in an evaluation",
    "held": "about a prompt that is held back for personal data",
}


@dataclass(frozen=True, kw_only=True)
class ExportQuery:
    """Which rows, in which files. Raises Invalid for a combination that means nothing."""

    kind: ExportKind
    shape: ExportShape = ExportShape.text
    formats: tuple[ExportFormat, ...] = (ExportFormat.jsonl, ExportFormat.parquet)
    splits: tuple[Split, ...] = tuple(Split)
    simulated: bool = False
    withdrawn: bool = False
    heldout: bool = False
    held: bool = False
    snapshot_id: int | None = None  # only the labels or prompts of this snapshot
    user_id: int | None = None  # kind "labeler": whose
    prompt_id: int | None = None  # kind "prompt": which

    def __post_init__(self) -> None:
        if not self.formats:
            raise Invalid("Choose a format: JSONL, Parquet or both.")
        if not self.splits:
            raise Invalid("Choose a split: train, valid or test.")
        if (self.kind is ExportKind.labeler) != (self.user_id is not None):
            raise Invalid("Name the labeler whose data it is." if not self.user_id else OTHERS)
        if (self.kind is ExportKind.prompt) != (self.prompt_id is not None):
            raise Invalid("Name the prompt that it is about." if not self.prompt_id else OTHERS)
        if self.shape is ExportShape.messages and self.kind not in CONVERSATIONS:
            raise Invalid(f"An export of {self.kind.value} is never in messages.")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Raises Invalid for a field or a word that is not known."""
        unknown = data.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise Invalid(f"An export has no field {', '.join(sorted(unknown))}.")
        known = dict(data)
        try:
            known["kind"] = ExportKind(known["kind"])
            known["shape"] = ExportShape(known.get("shape", ExportShape.text))
            for name, words in (("formats", ExportFormat), ("splits", Split)):
                if name in known:
                    given = [words(word) for word in known[name]]
                    known[name] = tuple(word for word in words if word in given)
        except KeyError:
            raise Invalid("An export needs its kind.") from None
        except ValueError as error:
            raise Invalid(f"{error}.".replace("is not a valid", "is no")) from error
        return cls(**known)


OTHERS: Final = "One labeler or one prompt is named only for everything that is kept of it."
CONVERSATIONS: Final = {ExportKind.sft, ExportKind.comparisons, ExportKind.prompts}
