"""A full page, or the part of it that HTMX asked for, from one template."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

ROOT = Path(__file__).resolve().parent.parent
STATIC = Path(__file__).resolve().parent / "static"


@lru_cache(maxsize=256)
def static_url(name: str) -> str:
    """The address of a static file, with its version so that browsers may keep it for good."""
    stamp = (STATIC / name).stat().st_mtime_ns
    return f"/static/{name}?v={stamp:x}"


def percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def number(value: float | None, digits: int = 3) -> str:
    """A figure for a table: thin spaces in thousands, few digits, a dash for none."""
    if value is None:
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}".replace(",", "\u202f")


def duration(seconds: float | None) -> str:
    """Seconds in words: 42 s, 3 min 05 s, 2 h 10 min."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def ago(moment: datetime | None) -> str:
    """How long ago, in words, in the largest unit that fits; the exact time is on hover."""
    if moment is None:
        return "–"
    seconds = (datetime.now(UTC) - moment).total_seconds()
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


@lru_cache(maxsize=1)
def environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(ROOT / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["static"] = static_url
    made.filters.update(percent=percent, number=number, duration=duration, ago=ago)
    # A global, because imports at a template's top are not seen by a block rendered alone.
    made.globals["ui"] = made.get_template("macros.html").module
    return made


def is_fragment(request: Request) -> bool:
    """Whether HTMX asked for a part of the page, and the browser does not restore its history."""
    headers = request.headers
    return headers.get("hx-request") == "true" and "hx-history-restore-request" not in headers


def page(
    request: Request,
    template: str,
    context: dict[str, Any] | None = None,
    *,
    status: int = 200,
    fragment: str = "main",
    headers: dict[str, str] | None = None,
) -> HTMLResponse:
    """Render `template`: all of it, or only the block `fragment` for a request by HTMX.

    The name of the signed-in user, where there is one, is in the context as `user_name`.
    """
    values = {
        "request": request,
        "user_name": getattr(request.state, "user_name", None),
        "now": datetime.now(UTC),
        **(context or {}),
    }
    loaded = environment().get_template(template)
    if is_fragment(request) and fragment in loaded.blocks:
        html = "".join(loaded.blocks[fragment](loaded.new_context(values)))
    else:
        html = loaded.render(values)
    return HTMLResponse(html, status_code=status, headers={"Vary": "HX-Request", **(headers or {})})
