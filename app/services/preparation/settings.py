"""How a study prepares its prompts: Study.preparation, validated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import delete
from sqlalchemy.orm import Session

from app.errors import Invalid
from app.models import PromptSketch, Study
from app.services.preparation.texts import load_tokenizer


class PreparationSettings(BaseModel):
    """The defaults are the paper's where it gives any (section 3.2, appendix A)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Prompts of one source user; the paper took about 200. 0: no cap.
    cap: Annotated[int, Field(ge=0, le=1_000_000)] = 200
    # Longer prompts are left out; the paper's context of 2,048 held 1,000 and the response.
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    # A tokenizer.json on this machine to count with. Without one the count is an estimate.
    tokenizer: str | None = None
    # Prompts that begin with the same so many characters are one. 0: they are not compared.
    prefix_characters: Annotated[int, Field(ge=0, le=10_000)] = 256
    # Prompts whose pairs of neighbouring words overlap so much (Jaccard) are near-duplicates.
    # 0: they are not looked for; below 0.6 the index would miss most of them.
    near_similarity: Annotated[float, Field(ge=0, le=1)] = 0.8
    # Of near-duplicates in one split: "fold" keeps the first, "keep" keeps all as one group.
    near_duplicates: Literal["fold", "keep"] = "fold"
    pii: bool = True  # look for it, and hold what is found


def settings_of(study: Study) -> PreparationSettings:
    return PreparationSettings(**study.preparation)


NAMES: Final = {
    "tokenizer": "Tokenizer",
    "cap": "Prompts of one user",
    "max_tokens": "Most tokens",
    "prefix_characters": "Long beginning",
    "near_similarity": "Near-duplicates from",
    "near_duplicates": "Near-duplicates in one split",
    "pii": "Personal information",
}


def change_settings(
    session: Session, study: Study, values: Mapping[str, Any]
) -> PreparationSettings:
    """Change some of a study's settings, for prompts that come from now on.

    Another length of prefixes asks for new sketches: the next import makes them. Raises Invalid.
    """
    before = settings_of(study)
    try:
        after = PreparationSettings(**{**before.model_dump(), **values})
    except ValidationError as error:
        first = error.errors()[0]
        name = NAMES.get(str(first["loc"][0]), str(first["loc"][0]))
        raise Invalid(f"{name}: {first['msg'][0].lower()}{first['msg'][1:]}.") from None
    if after.tokenizer is not None and after.tokenizer != before.tokenizer:
        check_tokenizer(after.tokenizer)
    if after.prefix_characters != before.prefix_characters:
        session.execute(delete(PromptSketch).where(PromptSketch.study_id == study.id))
    study.preparation = after.model_dump(exclude_defaults=True)
    session.flush()
    return after


def check_tokenizer(path: str) -> None:
    """Raises Invalid for what prompts cannot be counted with."""
    if not Path(path).is_absolute():
        raise Invalid("Tokenizer: give the whole path, from / on.")
    if not Path(path).is_file():
        raise Invalid(f"Tokenizer: there is no file {path} on the server.")
    try:
        load_tokenizer(path)
    except (ValueError, RuntimeError) as error:
        raise Invalid(f"Tokenizer: {error}") from error
