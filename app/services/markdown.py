"""Markdown as HTML. HTML in the Markdown is shown, not obeyed."""

from __future__ import annotations

from functools import lru_cache

from markupsafe import Markup


@lru_cache(maxsize=64)  # the same guidelines stand beside every assignment
def render_markdown(markdown: str) -> Markup:
    """CommonMark with tables; safe to put into a page as it is.

    Headings begin at the second level: the page has its own first.
    """
    # By the first page that needs it: the web process shall start soon.
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    for token in tokens:
        if token.type in {"heading_open", "heading_close"}:
            token.tag = f"h{min(6, int(token.tag[1]) + 1)}"
    return Markup(str(parser.renderer.render(tokens, parser.options, {})))
