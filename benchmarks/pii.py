"""How well the PII rules do: `python -m benchmarks.pii [--misses]`.

The sentences of tests/data/pii_sentences.jsonl were written by hand for this: 163 with what
should be found, and hard negatives (versions, ISBNs, dates, prices, order numbers, people of
stories, test cards). A span counts as found when one of the same kind covers at least half of it,
and as wrongly found when no expected span of its kind overlaps it. The last row asks only whether a
prompt is held or not, which is what keeps it out of training.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from app.services.preparation.pii import KINDS, Span, find_pii

SENTENCES = Path(__file__).parents[1] / "tests" / "data" / "pii_sentences.jsonl"


@dataclass(frozen=True, kw_only=True)
class Score:
    """Of one kind: spans that are there, of those found, and spans wrongly found."""

    there: int
    found: int
    wrong: int

    @property
    def recall(self) -> float:
        return self.found / self.there

    @property
    def precision(self) -> float:
        return self.found / (self.found + self.wrong) if self.found + self.wrong else 1.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    scores: dict[str, Score]  # by kind, and "held" for whole sentences
    misses: list[str]


def measure() -> Measured:
    there: Counter[str] = Counter()
    found: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    misses: list[str] = []
    for line in SENTENCES.read_text().splitlines():
        sentence = json.loads(line)
        text = sentence["text"]
        wanted = [Span(item["kind"], item["start"], item["end"]) for item in sentence["pii"]]
        got = find_pii(text)
        there["held"] += bool(wanted)
        found["held"] += bool(wanted and got)
        wrong["held"] += bool(got and not wanted)
        for span in wanted:
            there[span.kind] += 1
            if any(_overlap(span, other) * 2 >= span.end - span.start for other in got):
                found[span.kind] += 1
            else:
                misses.append(f"missed {span.kind}: {text!r}")
        for span in got:
            if not any(_overlap(span, other) for other in wanted):
                wrong[span.kind] += 1
                misses.append(f"wrong {span.kind} {text[span.start : span.end]!r}: {text!r}")
    scores = {
        kind: Score(there=there[kind], found=found[kind], wrong=wrong[kind])
        for kind in (*KINDS, "held")
    }
    return Measured(scores=scores, misses=misses)


def _overlap(one: Span, other: Span) -> int:
    if one.kind != other.kind:
        return 0
    return max(0, min(one.end, other.end) - max(one.start, other.start))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--misses", action="store_true", help="list what went wrong")
    arguments = parser.parse_args()
    measured = measure()
    print(f"{'kind':10}{'there':>7}{'found':>7}{'wrong':>7}{'recall':>9}{'precision':>11}")
    for kind, score in measured.scores.items():
        print(
            f"{kind:10}{score.there:7}{score.found:7}{score.wrong:7}"
            f"{score.recall:9.2f}{score.precision:11.2f}"
        )
    if arguments.misses:
        print("\n".join(measured.misses))


if __name__ == "__main__":
    main()
