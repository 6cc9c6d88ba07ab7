"""The form for writing a prompt: what was written in it, in the paper's three kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.config import get_settings
from app.models import UseCase, WritingStyle
from app.services.few_shot import FewShot, Pair
from app.services.label_forms import PAIR_PLACES, FormProblems

# What labelers choose from (paper, Table 1), by the value that is sent.
USE_CASES = {
    "generation": "Generation: write a new text",
    "open_qa": "Open question",
    "brainstorming": "Brainstorming",
    "chat": "Chat",
    "rewrite": "Rewrite",
    "summarization": "Summarization",
    "classification": "Classification",
    "closed_qa": "Question about a given text",
    "extract": "Extract something from a text",
    "other": "Other",
}
MIN_PAIRS = 2  # "several" in the paper (appendix A.2.1)


@dataclass(frozen=True, kw_only=True)
class PromptAnswers:
    """A prompt as a labeler wrote it; `text` is the rendered one where it is few-shot."""

    text: str
    few_shot: FewShot | None
    use_case: UseCase | None


def parse_prompt(fields: Mapping[str, str], style: WritingStyle) -> PromptAnswers:
    """The prompt that was written. Raises FormProblems with a message per field."""
    problems: dict[str, str] = {}
    use_case = _parse_use_case(fields, problems)
    few_shot: FewShot | None = None
    if style is WritingStyle.few_shot:
        few_shot = _parse_few_shot(fields, problems)
        text, about = few_shot.rendered(), "instruction"
    else:
        text, about = fields.get("prompt_text", "").strip("\n").rstrip(), "prompt_text"
        if not text.strip():
            problems[about] = "Write the prompt before you submit it."
    limit = get_settings().max_prompt_characters
    if len(text) > limit:
        problems[about] = f"A prompt has at most {limit:,} characters; this one has {len(text):,}."
    if problems:
        raise FormProblems(problems)
    return PromptAnswers(text=text, few_shot=few_shot, use_case=use_case)


def _parse_use_case(fields: Mapping[str, str], problems: dict[str, str]) -> UseCase | None:
    value = fields.get("use_case", "")
    if not value:
        return None
    if value not in set(UseCase):
        problems["use_case"] = "Choose one of the use cases, or none."
        return None
    return UseCase(value)


def _parse_few_shot(fields: Mapping[str, str], problems: dict[str, str]) -> FewShot:
    """The parts, each without white space around it. Pairs that are wholly empty do not count."""
    instruction = fields.get("instruction", "").strip()
    if not instruction:
        problems["instruction"] = "Write the instruction."
    pairs: list[Pair] = []
    for place in PAIR_PLACES:
        query = fields.get(f"query_{place}", "").strip()
        response = fields.get(f"response_{place}", "").strip()
        if query and response:
            pairs.append(Pair(query=query, response=response))
        elif query:
            problems[f"response_{place}"] = f"Pair {place} has a query and no response."
        elif response:
            problems[f"query_{place}"] = f"Pair {place} has a response and no query."
    if len(pairs) < MIN_PAIRS and not problems.keys() - {"instruction", "use_case"}:
        empty = next(p for p in PAIR_PLACES if not fields.get(f"query_{p}", "").strip())
        problems[f"query_{empty}"] = f"Write at least {MIN_PAIRS} pairs of query and response."
    query = fields.get("final_query", "").strip()
    if not query:
        problems["final_query"] = "Write the query that is to be responded to."
    return FewShot(instruction=instruction, pairs=pairs, query=query)
