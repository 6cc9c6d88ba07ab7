"""Markdown as HTML. HTML in the Markdown is shown, not obeyed."""

from __future__ import annotations

from functools import lru_cache

from markdown_it import MarkdownIt
from markupsafe import Markup


@lru_cache(maxsize=64)  # the same guidelines stand beside every assignment
def render_markdown(markdown: str) -> Markup:
    """CommonMark with tables; safe to put into a page as it is."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    return Markup(str(parser.render(markdown)))
