"""The hidden utility by which simulated labelers judge: a weighted sum of checkable parts.

It reads the prompt's text and the completion, as a labeler does. What is not an answer scores low
however well it is dressed: every other part counts only as far as the task was done.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from typing import Final, Literal

from app.simulation import fallback
from app.simulation.checks import CHECKS, list_items, strays
from app.simulation.corpus import starter_texts
from app.simulation.family import Instruction, parse, without_courtesy, words_of
from app.simulation.lexicon import CLASSES, COURTESIES, FACT_CLASS_OF


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a judgement, each 0 (bad) to 1 (good)."""

    task: float  # does what was asked
    facts: float  # nothing made up
    constraint: float  # 1 where the prompt has none
    courtesy: float  # a short courtesy where it is due, and nowhere more than one
    format: float  # a list where a list was asked, else whole sentences
    fluency: float  # the world's language, without repetition
    length: float  # neither thin nor rambling


WEIGHTS: Final = Parts(
    task=1.8, facts=0.8, constraint=1.2, courtesy=2.2, format=1.2, fluency=1.0, length=1.5
)
# Of the weighted sum over labeler.reference_completions, so that the utility has about mean 0 and
# deviation 1 there. tests/simulation holds them to it.
MEAN: Final = 6.76
DEVIATION: Final = 2.57

_ADJECTIVES: Final = frozenset(CLASSES["adjective"])


def _classes(text: str) -> list[str]:
    """The tokens of a text, words that state a fact replaced by their class."""
    tokens = re.findall(r"[^\W_]+|[^\w\s]|\n", text)
    return [
        FACT_CLASS_OF.get(t.lower()) or ("adjective" if t in _ADJECTIVES else t) for t in tokens
    ]


def _trigrams(text: str) -> list[tuple[str, str, str]]:
    tokens = ["<", "<", *_classes(text), ">"]
    return list(zip(tokens, tokens[1:], tokens[2:], strict=False))


@lru_cache(maxsize=1)
def _language() -> frozenset[tuple[str, str, str]]:
    """The trigrams of the world's language."""
    pieces = (piece for text in starter_texts(0, 6000) for piece in text.split("\n\n"))
    return frozenset(t for piece in pieces for t in _trigrams(piece))


def fluency(prompt: str, completion: str) -> float:
    """How far a completion is language of the world, neither repeated nor the prompt copied."""
    trigrams = _trigrams(completion)
    unknown = sum(t not in _language() for t in trigrams) / len(trigrams)
    return max(0.0, fallback.soundness(prompt, completion) - 2.5 * unknown)


def _format(instruction: Instruction, completion: str, body: str) -> float:
    if instruction.kind.shape == "list":
        lines = [line for line in body.splitlines() if line.strip()]
        return sum(line.startswith("- ") for line in lines) / len(lines) if lines else 0.0
    dashes = any(line.startswith("-") for line in body.splitlines())
    return 0.0 if dashes else fallback.form(completion)


def _courtesy(instruction: Instruction, completion: str) -> float:
    n = sum(completion.count(courtesy) for courtesy in COURTESIES)
    if n == 0:
        return 0.0 if instruction.kind.courteous else 1.0
    return max(0.0, 1.5 - 0.5 * n)  # one is always well; more is too much


def _length(instruction: Instruction, body: str) -> float:
    least, most = instruction.kind.words
    n = len(list_items(body)) if instruction.kind.shape == "list" else len(words_of(body))
    if n < least:
        return n / least
    return max(0.0, 1.0 - (n - most) / most) if n > most else 1.0


def parts(prompt: str, completion: str) -> Parts:
    """The parts of the judgement of a completion, by the demo family's checks or generic ones."""
    if not words_of(completion) or fallback.copies(prompt, completion):
        return Parts(**{f.name: 0.0 for f in fields(Parts)})
    instruction = parse(prompt)
    if instruction is None:
        return Parts(
            task=fallback.topicality(prompt, completion),
            facts=1.0,
            constraint=1.0,
            courtesy=1.0,
            format=fallback.form(completion),
            fluency=fallback.soundness(prompt, completion),
            length=fallback.length(completion),
        )
    kind, slots, constraint = instruction.kind, instruction.slots, instruction.constraint
    body = without_courtesy(completion)
    return Parts(
        task=CHECKS[kind.name](slots, body),
        facts=max(0.0, 1.0 - 0.5 * strays(kind, slots, body)),
        constraint=float(constraint is None or constraint.met(completion)),
        courtesy=_courtesy(instruction, completion),
        format=_format(instruction, completion, body),
        fluency=fluency(prompt, completion),
        length=_length(instruction, body),
    )


def weigh(judged: Parts, weights: Parts = WEIGHTS) -> float:
    """One number of the parts: about mean 0 and deviation 1 over an SFT policy's completions."""
    done = 0.3 + 0.7 * judged.task
    rest = sum(p * w for p, w in zip(astuple(judged)[1:], astuple(weights)[1:], strict=True))
    return float(weights.task * judged.task + done * rest - MEAN) / DEVIATION


def utility(prompt_text: str, completion: str) -> float:
    """The hidden utility of a completion; higher is better, see `weigh` for the unit."""
    return weigh(parts(prompt_text, completion))


def utility_name(prompt_text: str) -> Literal["demo family", "generic"]:
    """Which utility judges the completions of a prompt."""
    return "generic" if parse(prompt_text) is None else "demo family"


def judge_prompt(prompt: str) -> Mapping[str, bool]:
    """What of a prompt decides which metadata of its completions apply (paper, appendix A)."""
    instruction = parse(prompt)
    return {
        "closed_domain": instruction is not None and instruction.kind.closed_domain,
        "safety_constraints": False,
        "other_constraints": instruction is not None and instruction.constraint is not None,
    }


def judge_metadata(prompt: str, completion: str) -> Mapping[str, bool | None]:
    """The paper's binary metadata of a completion (App. B); None where a field does not apply.

    What the world's language cannot express (violence, for one) is False for every completion.
    """
    judged, about = parts(prompt, completion), judge_prompt(prompt)
    return {
        "fails_instruction": judged.task < 0.5,
        "inappropriate_for_assistant": judged.fluency < 0.3,
        "hallucination": judged.facts < 1.0 if about["closed_domain"] else None,
        "satisfies_constraint": judged.constraint == 1.0 if about["other_constraints"] else None,
        "sexual_content": False,
        "violent_content": False,
        "encourages_harm": False,
        "denigrates_protected_class": False,
        "harmful_advice": False,
        "expresses_opinion": "i think" in " ".join(words_of(completion)),
        "moral_judgment": False,
    }
