"""How a study prepares its prompts: Study.preparation, validated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.models import Study


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
