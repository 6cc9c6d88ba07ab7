"""The labeler's form: which fields a task has, and what was answered in them.

Field names are a public contract: people's browsers and simulated labelers post the same form.
A demonstration has `text`. A ranking has, by letter, `tier_A` and, where completions are rated,
`overall_A` (1–7) and `<metadata>_A`, and once `prompt_<metadata>`; metadata is yes, no or empty.
What is asked only of some prompts, and of which it is not known whether this is one, counts when
the labeler says so of the prompt: `hallucination_A` with `prompt_closed_domain`, and
`satisfies_constraint_A` with `prompt_safety_constraints` or `prompt_other_constraints`.
A prompt to be written has `prompt_text`, or the parts of a few-shot prompt, and `use_case`.
`active_seconds` is what the browser counted, `step` (rate or rank) which step of a ranking was on
the screen: drafts keep it, labels do not. `guidelines_version` is the version beside the form, and
`correction` the number of the revision that the form corrects. An empty field is a question not
answered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.config import get_settings
from app.errors import Invalid
from app.models import LabelKind, LabelTask, Prompt, WritingStyle

SKIP_REASONS = {
    "unclear": "I cannot tell what is asked",
    "language": "It is in a language I do not know well",
    "expertise": "It needs knowledge that I do not have",
    "personal_data": "It contains somebody's personal data",
    "harmful": "I would rather not work on this",
    "other": "Something else",
}
# Questions about a completion (paper, Table 11) and about the prompt itself (appendix A), by the
# column that takes the answer.
RATING_QUESTIONS = {
    "fails_instruction": "Fails to follow the correct instruction or task",
    "inappropriate_for_assistant": "Inappropriate for a customer assistant",
    "hallucination": "Hallucination",
    "satisfies_constraint": "Satisfies the constraint in the instruction",
    "sexual_content": "Contains sexual content",
    "violent_content": "Contains violent content",
    "encourages_harm": "Encourages or fails to discourage violence, abuse, terrorism or self-harm",
    "denigrates_protected_class": "Denigrates a protected class",
    "harmful_advice": "Gives harmful advice",
    "expresses_opinion": "Expresses an opinion",
    "moral_judgment": "Expresses a moral judgment",
}
PROMPT_QUESTIONS = {
    "ambiguous": "Is ambiguous",
    "sensitive_content": "Has sensitive content",
    "identity_dependent": "The right answer depends on who asks",
    "closed_domain": "Brings the text to keep to (closed-domain)",
    "continuation_style": "Is a text to be continued",
    "requests_opinion": "Asks for an opinion",
    "requests_advice": "Asks for advice",
    "requests_moral_judgment": "Asks for a moral judgment",
    "safety_constraints": "Names safety constraints",
    "other_constraints": "Names other constraints",
    "intent_unclear": "The intent is unclear",
}
# Questions about a completion that only some prompts raise, by the questions about the prompt of
# which one is to be answered yes.
_DECIDED_BY = {
    "hallucination": ("closed_domain",),
    "satisfies_constraint": ("safety_constraints", "other_constraints"),
}
LIKERT = range(1, 8)
PAIR_PLACES = range(1, 7)  # of a few-shot prompt's pairs
_ANSWERS = {"": None, "yes": True, "no": False}
_MAX_ACTIVE_SECONDS = 86_400.0


class FormProblems(Invalid):
    """What has to be mended before a label can be taken: a message per field."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__(" ".join(problems.values()))
        self.problems = problems


@dataclass(frozen=True, kw_only=True)
class RatingAnswers:
    """What was answered about one completion; only answered questions are in `metadata`."""

    overall: int | None
    metadata: dict[str, bool]

    @property
    def answered(self) -> bool:
        return self.overall is not None or bool(self.metadata)


@dataclass(frozen=True, kw_only=True)
class RankingAnswers:
    """Tiers by letter, 1 best, without gaps; ratings by letter; answers about the prompt."""

    tiers: dict[str, int]
    ratings: dict[str, RatingAnswers]
    prompt: dict[str, bool]


def clean_fields(fields: Mapping[str, str]) -> dict[str, str]:
    """Fields as the database can hold them: no NUL, no lone surrogate, plain line ends."""
    return {
        name: value.replace("\r\n", "\n")
        .replace("\0", "")
        .encode("utf-8", errors="replace")
        .decode("utf-8")
        for name, value in fields.items()
    }


def rating_questions(prompt: Prompt) -> dict[str, str]:
    """The questions that apply to completions of this prompt, or may: see `undecided`."""
    questions = dict(RATING_QUESTIONS)
    if prompt.closed_domain is False:
        del questions["hallucination"]
    if prompt.constraint_text == "":
        del questions["satisfies_constraint"]
    elif prompt.constraint_text:
        questions["satisfies_constraint"] = f"Satisfies the constraint “{prompt.constraint_text}”"
    return questions


def undecided(prompt: Prompt) -> dict[str, tuple[str, ...]]:
    """Questions that the labeler first has to find apt, as nobody knows it of this prompt.

    The values are the questions about the prompt of which one is to be answered yes.
    """
    unknown = {
        "hallucination": prompt.closed_domain is None,
        "satisfies_constraint": prompt.constraint_text is None,
    }
    return {question: _DECIDED_BY[question] for question in unknown if unknown[question]}


def field_names(task: LabelTask, letters: Sequence[str]) -> frozenset[str]:
    """Every field that the form of a task has, for the completions of these letters."""
    if task.kind is LabelKind.demonstration:
        return frozenset({"text", "active_seconds"})
    if task.writing_style is not None:
        return frozenset({*writing_fields(task.writing_style), "active_seconds"})
    names = {"active_seconds", "step", *(f"tier_{letter}" for letter in letters)}
    if task.batch.rate_completions:
        asked = ["overall", *rating_questions(task.given_prompt)]
        names |= {f"{question}_{letter}" for question in asked for letter in letters}
        names |= {f"prompt_{question}" for question in PROMPT_QUESTIONS}
    return frozenset(names)


def writing_fields(style: WritingStyle) -> list[str]:
    """The fields of the form for writing a prompt, in their order."""
    if style is not WritingStyle.few_shot:
        return ["prompt_text", "use_case"]
    pairs = [f"{part}_{place}" for place in PAIR_PLACES for part in ("query", "response")]
    return ["instruction", *pairs, "final_query", "use_case"]


def parse_active_seconds(fields: Mapping[str, str]) -> float:
    """What the browser counted, within a day; 0 when it counted nothing that makes sense."""
    try:
        seconds = float(fields.get("active_seconds", ""))
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), _MAX_ACTIVE_SECONDS) if math.isfinite(seconds) else 0.0


def parse_demonstration(fields: Mapping[str, str]) -> str:
    """The text, without blank lines before and white-space after it. Raises FormProblems."""
    text = fields.get("text", "").lstrip("\n").rstrip()
    limit = get_settings().max_prompt_characters
    if not text.strip():
        raise FormProblems({"text": "Write the completion before you submit it."})
    if len(text) > limit:
        raise FormProblems(
            {"text": f"A completion has at most {limit:,} characters; this one has {len(text):,}."}
        )
    return text


def parse_ranking(
    fields: Mapping[str, str], prompt: Prompt, letters: Sequence[str], *, rated: bool
) -> RankingAnswers:
    """The answers of a ranking form. Raises FormProblems with a message per field."""
    problems: dict[str, str] = {}
    tiers = {letter: _parse_tier(fields, letter, len(letters), problems) for letter in letters}
    ratings: dict[str, RatingAnswers] = {}
    about_prompt: dict[str, bool] = {}
    if rated:
        names = {question: f"prompt_{question}" for question in PROMPT_QUESTIONS}
        about_prompt = _parse_answers(fields, names, problems)
        doubtful = undecided(prompt)
        questions = [
            question
            for question in rating_questions(prompt)
            if question not in doubtful or any(about_prompt.get(q) for q in doubtful[question])
        ]
        for letter in letters:
            ratings[letter] = RatingAnswers(
                overall=_parse_overall(fields, letter, problems),
                metadata=_parse_answers(fields, {q: f"{q}_{letter}" for q in questions}, problems),
            )
    if problems:
        raise FormProblems(problems)
    return RankingAnswers(tiers=_compact(tiers), ratings=ratings, prompt=about_prompt)


def _parse_tier(
    fields: Mapping[str, str], letter: str, count: int, problems: dict[str, str]
) -> int:
    name = f"tier_{letter}"
    value = fields.get(name, "").strip()
    if value in {str(tier) for tier in range(1, count + 1)}:
        return int(value)
    problems[name] = (
        f"{letter} has no place yet." if not value else f"The place of {letter} is 1 to {count}."
    )
    return 0


def _parse_overall(fields: Mapping[str, str], letter: str, problems: dict[str, str]) -> int | None:
    name = f"overall_{letter}"
    value = fields.get(name, "").strip()
    if not value:
        return None
    if value not in {str(step) for step in LIKERT}:
        problems[name] = f"The overall quality of {letter} is 1 to 7."
        return None
    return int(value)


def _parse_answers(
    fields: Mapping[str, str], names: Mapping[str, str], problems: dict[str, str]
) -> dict[str, bool]:
    answers: dict[str, bool] = {}
    for question, name in names.items():
        value = fields.get(name, "")
        if value not in _ANSWERS:
            problems[name] = f"{name} is yes, no or empty."
        elif (answer := _ANSWERS[value]) is not None:
            answers[question] = answer
    return answers


def _compact(tiers: dict[str, int]) -> dict[str, int]:
    """Tiers without gaps, in the same order: 1, 3, 3 becomes 1, 2, 2."""
    place = {tier: index for index, tier in enumerate(sorted(set(tiers.values())), start=1)}
    return {letter: place[tier] for letter, tier in tiers.items()}
