"""A simulated labeler's account."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Account:
    """A simulated labeler's sign-in, and the seed of its judgement."""

    username: str
    password: str
    seed: int
