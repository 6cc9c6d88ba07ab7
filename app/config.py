"""Settings. Every default works on a laptop; `PLUMBLINE_*` in the environment overrides."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """All settings of an installation, read once from the environment and frozen."""

    model_config = SettingsConfigDict(env_prefix="PLUMBLINE_", frozen=True, extra="ignore")

    home: Path = Field(
        default=Path("var"),
        description="The one folder for everything that is written: databases, runs, artifacts.",
    )
    database_url: str | None = Field(
        default=None, description="postgresql://… ; the bundled PostgreSQL is started when unset."
    )
    redis_url: str | None = Field(
        default=None, description="redis://… ; the bundled Valkey is started when unset."
    )
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    artifacts_url: str | None = Field(
        default=None, description="Where checkpoints and snapshots are kept; a folder in home."
    )
    base_model: str | None = Field(
        default=None,
        description="A path or a Hugging Face name; the starter base model is built when unset.",
    )
    session_days: int = Field(default=14, ge=1)
    secure_cookies: bool = Field(default=False, description="Set behind HTTPS.")
    run_lease_seconds: int = Field(
        default=60, ge=5, description="A run whose worker is silent for so long is requeued."
    )
    sweep_seconds: float = Field(default=5.0, gt=0, description="Period of the repair sweep.")
    trainer_launch: str = Field(
        default="",
        description="Words put before `-m trainer`, such as "
        "`accelerate launch --multi_gpu --num_processes 4`; one plain Python process when empty.",
    )
    max_upload_bytes: int = Field(default=2_000_000_000, ge=1)
    import_processes: int = Field(
        default_factory=lambda: min(os.cpu_count() or 1, 4),
        ge=0,
        description="Processes that look at the prompts of a large file beside the one that stores "
        "them; as many as cores, 4 at most. 0: that one looks at them too.",
    )
    max_prompt_characters: int = Field(default=32_000, ge=1)

    def environment(self, around: Mapping[str, str]) -> dict[str, str]:
        """These variables, but with those from which another process reads these settings."""
        values = self.model_dump(mode="json")
        own = {f"PLUMBLINE_{name.upper()}": value for name, value in values.items()}
        others = {name: value for name, value in around.items() if name.upper() not in own}
        return others | {name: str(value) for name, value in own.items() if value is not None}

    @property
    def home_path(self) -> Path:
        return self.home.expanduser().resolve()

    @property
    def runs_path(self) -> Path:
        return self.home_path / "runs"

    @property
    def artifacts(self) -> str:
        return self.artifacts_url or (self.home_path / "artifacts").as_uri()


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process. Tests clear the cache after changing the environment."""
    return Settings()


def sqlalchemy_url(url: str) -> str:
    """The same database through psycopg 3, whichever of the usual spellings was given."""
    for prefix in ("postgresql+psycopg://", "postgresql://", "postgres://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url[len(prefix) :]
    raise ValueError(f"PLUMBLINE_DATABASE_URL must start with postgresql://, got {url!r}")
