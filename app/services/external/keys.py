"""API keys live in the environment, and a system's settings name the variable.

Whoever runs the server sets `PLUMBLINE_KEY_LAB=sk-…` for the web server and the worker. So a key
is in no table, page, export, backup or log, and is changed without touching a study. Only names
with this beginning are taken: any other would let a researcher send the database's password to an
address of their choice. `PLUMBLINE_KEY_LAB_HOST=api.example.com` sends the key to that host alone.
"""

from __future__ import annotations

import os
import re
from typing import Final
from urllib.parse import urlsplit

BEGINNING: Final = "PLUMBLINE_KEY_"
HOST: Final = "_HOST"
_NAME = re.compile(rf"{BEGINNING}[A-Z0-9_]{{1,60}}")


class KeyProblem(Exception):
    """The key cannot be used; the message says why, without it."""


def check_variable(name: str | None) -> str | None:
    """Raises ValueError for a name that may not hold a key."""
    if name is None:
        return None
    name = name.strip()
    if not _NAME.fullmatch(name) or name.endswith(HOST):
        raise ValueError(
            f"is the name of an environment variable that begins with {BEGINNING}, in capitals and "
            f"digits, such as {BEGINNING}LAB; the key itself is never typed in here"
        )
    return name


def key_for(variable: str | None, base_url: str) -> str | None:
    """The key that is sent there, if there is to be one. Raises KeyProblem."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise KeyProblem(
            f"The environment variable {variable} is not set where Plumbline runs: whoever runs "
            "the server puts the key there, for the web server and the worker, and restarts them."
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise KeyProblem(f"What {variable} holds is no key: it has characters that none has.")
    host = os.environ.get(variable + HOST, "").strip().lower()
    if host and urlsplit(base_url).hostname != host:
        raise KeyProblem(f"The key in {variable} is for another host; see {variable}{HOST}.")
    return key
