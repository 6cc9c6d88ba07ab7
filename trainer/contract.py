"""The contract between app and trainer: one directory a run. Standard library only.

The app writes `spec.json` and `data/`, starts `python -m trainer KIND RUN_DIR`, and follows
`metrics.jsonl`. The trainer writes `result.json` last, with a rename: a run directory that has one
is finished, one that has none is not. Any run can be replayed without the app.

    RUN_DIR/
      spec.json            RunSpec
      data/*.jsonl         frozen records, one JSON object a line, named in RunSpec.data
      metrics.jsonl        MetricLine, appended as the run goes on: the heartbeat's proof of life
      log.txt              stdout and stderr of the trainer, written by the app
      checkpoints/step_N/  what a killed run resumes from
      model/               the model it made: an ordinary Hugging Face directory with its card
      completions.jsonl    what it sampled (kind "sample")
      result.json          RunResult, written last
      crossvalidation.json of a reward run that was cross-validated, and its folds in
      crossvalidation/     run directories of their own: trainer.crossvalidate
      rollout-N/           a policy that a rollout server reads, meanwhile: trainer.serving
      trainer.pid          the process that trains, written by the app
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, Self, TextIO, TypeVar, get_args, get_origin, get_type_hints

RunKind = Literal["base", "sft", "reward", "ppo", "sample"]
RUN_KINDS: Final[tuple[RunKind, ...]] = get_args(RunKind)

SPEC: Final = "spec.json"
DATA: Final = "data"
METRICS: Final = "metrics.jsonl"
LOG: Final = "log.txt"
CHECKPOINTS: Final = "checkpoints"
MODEL: Final = "model"
COMPLETIONS: Final = "completions.jsonl"
RESULT: Final = "result.json"
CROSSVALIDATION: Final = "crossvalidation.json"

# Exit status of a trainer that was asked to stop (SIGTERM): without a result, and it can go on.
EXIT_STOPPED: Final = 75

Split = Literal["train", "valid", "test"]
FinishReason = Literal["stop", "length"]


class ContractError(ValueError):
    """A file of a run directory breaks the contract. The message names file and reason."""


class _Record:
    """A frozen dataclass that is one JSON object.

    Unknown and missing keys and values of another type raise ContractError.
    """

    @classmethod
    def from_json(cls, data: Any) -> Self:
        if not isinstance(data, dict):
            raise ContractError(f"{cls.__name__}: expected an object, got {type(data).__name__}")
        unknown = data.keys() - {f.name for f in fields(cls)}  # type: ignore[arg-type]
        if unknown:
            raise ContractError(f"{cls.__name__}: unknown keys {sorted(unknown)}")
        hints = _hints(cls)  # type: ignore[arg-type]
        for name, value in data.items():
            if not _fits(value, hints[name]):
                raise ContractError(f"{cls.__name__}: {name} is {_shown(value, hints[name])}")
        try:
            return cls(**data)
        except TypeError as error:
            raise ContractError(f"{cls.__name__}: {error}") from error

    def to_json(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload, no-any-return]


@cache
def _hints(record: type) -> dict[str, Any]:
    return get_type_hints(record)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is of the type that a field of a record has."""
    kind, of = get_origin(hint), get_args(hint)
    if kind is Literal:
        return value in of
    if kind is UnionType:
        return any(_fits(value, one) for one in of)
    if kind is list:
        return type(value) is list and all(_fits(one, of[0]) for one in value)
    if kind is dict:  # whose keys are strings, as all of JSON's
        return type(value) is dict and all(_fits(one, of[1]) for one in value.values())
    return hint is Any or type(value) is hint or (hint is float and type(value) is int)


def _shown(value: Any, hint: Any) -> str:
    """What is wrong with a value that does not fit."""
    if get_origin(hint) is Literal:
        return f"{value!r:.80}, none of {', '.join(get_args(hint))}"
    wanted = hint.__name__ if isinstance(hint, type) else str(hint)
    return f"{value!r:.80}, not of type {wanted}"


# Models and data of each kind by their names; None: any.
PARTS: Final[dict[RunKind, tuple[tuple[str, ...] | None, tuple[str, ...]]]] = {
    "base": ((), ("pretraining",)),
    "sft": (("init", "reward"), ("demonstrations", "pretraining")),
    "reward": (("init",), ("rankings", "demonstrations")),
    "ppo": (("init", "reference", "reward"), ("prompts", "pretraining")),
    "sample": (None, ("requests",)),
}
# What of RunSpec.about is read: see trainer.card.
ABOUT: Final[dict[str, Any]] = {
    "study": str,
    "run": int | str,
    "parents": dict[str, str],
    "snapshots": dict[str, str],
    "agreement": dict[str, float] | None,
    "license": str,
}


def _check_about(about: dict[str, Any]) -> None:
    """Raises ContractError where the card could not be filled from it, before anything is made."""
    for name, hint in ABOUT.items():
        if name in about and not _fits(about[name], hint):
            raise ContractError(f"RunSpec: about {name} is {_shown(about[name], hint)}")
    if "run" in about and "study" not in about:
        raise ContractError("RunSpec: about names a run without its study")
    agreement = about.get("agreement")
    if agreement and (missing := {"rate", "low", "high", "n"} - agreement.keys()):
        raise ContractError(f"RunSpec: about agreement lacks {sorted(missing)}")


@dataclass(frozen=True, kw_only=True)
class RunSpec(_Record):
    """All that decides a run's result, beside the code.

    `models` names directories (or Hugging Face names) by part; `data` names files of RUN_DIR/data:

    kind     models                                         data
    base     -                                              pretraining (text records)
    sft      init, [reward]                                 demonstrations, [pretraining]
    reward   init                                           rankings, [demonstrations]
    ppo      init, reference, reward                        prompts, [pretraining]
    sample   one entry a policy, by its name; [reward]      requests
    """

    kind: RunKind
    seed: int = 0
    preset: str = "paper"
    config: dict[str, Any] = field(default_factory=dict)  # overrides on the preset, strict
    models: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    prompt_template: str = "{prompt}\n\n"  # the text a policy continues; "{prompt}" appears once
    about: dict[str, Any] = field(default_factory=dict)  # for the model card: see trainer.card

    def __post_init__(self) -> None:
        if self.prompt_template.count("{prompt}") != 1:
            raise ContractError("RunSpec: prompt_template must contain {prompt} exactly once")
        for what, given, known in zip(
            ("models", "data"), (self.models, self.data), PARTS[self.kind], strict=True
        ):
            if unknown := sorted(given.keys() - known) if known is not None else []:
                raise ContractError(
                    f"RunSpec: {what} {unknown} are none of kind {self.kind}, which has "
                    f"{', '.join(known or ()) or 'none'}"
                )
        _check_about(self.about)
        for name in self.data.values():
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ContractError(f"RunSpec: data {name!r} does not lie in {DATA}/")


@dataclass(frozen=True, kw_only=True)
class TextRecord(_Record):
    """One document of the pretraining text."""

    text: str


@dataclass(frozen=True, kw_only=True)
class DemonstrationRecord(_Record):
    """A prompt and the completion a labeler wrote for it."""

    prompt_id: int
    prompt: str
    completion: str
    split: Split
    labeler: str  # a pseudonym, stable within the study
    demonstration_id: int


@dataclass(frozen=True, kw_only=True)
class RankingRecord(_Record):
    """One labeler's ranking of one prompt's completions.

    `groups` are ordered tie groups, best first, of indices into `completions`:
    [[2], [0, 3], [1]] says that 2 beats all, 0 and 3 tie, 1 is worst.
    """

    ranking_id: int
    prompt_id: int
    prompt: str
    completions: list[str]
    groups: list[list[int]]
    split: Split
    labeler: str

    def __post_init__(self) -> None:
        flat = sorted(i for group in self.groups for i in group)
        if flat != list(range(len(self.completions))) or [] in self.groups:
            raise ContractError(
                f"RankingRecord {self.ranking_id}: groups {self.groups} do not hold each of the "
                f"{len(self.completions)} completions once, and nothing else"
            )


@dataclass(frozen=True, kw_only=True)
class PromptRecord(_Record):
    """A prompt without a label, for PPO."""

    prompt_id: int
    prompt: str
    split: Split


@dataclass(frozen=True, kw_only=True)
class SampleRequest(_Record):
    """Ask one policy for `n` completions of one prompt.

    With `best_of` b each is the one of b samples that the reward model scores highest.
    """

    prompt_id: int
    prompt: str
    policy: str  # a key of RunSpec.models
    n: int = 1
    best_of: int = 1

    def __post_init__(self) -> None:
        for name in ("n", "best_of"):
            if getattr(self, name) < 1:
                raise ContractError(f"SampleRequest: {name} is {getattr(self, name)}, below 1")


@dataclass(frozen=True, kw_only=True)
class CompletionRecord(_Record):
    """One sampled completion. `score` is the reward model's, None where none was given.

    `spread` is the standard deviation of the scores of an ensemble's members.
    """

    prompt_id: int
    policy: str
    index: int
    text: str
    finish_reason: FinishReason
    tokens: int
    score: float | None = None
    spread: float | None = None


@dataclass(frozen=True, kw_only=True)
class MetricLine(_Record):
    """One line of metrics.jsonl. Keys of `values` carry namespace and unit: `objective/kl_nats`."""

    step: int
    total_steps: int
    time: float  # seconds since the epoch
    values: dict[str, float]
    phase: str = "train"  # in the words of the progress line


@dataclass(frozen=True, kw_only=True)
class RunResult(_Record):
    """What a finished run made. Paths are relative to RUN_DIR."""

    kind: RunKind
    model: str | None = None
    completions: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)  # tables and curves of a kind
    versions: dict[str, str] = field(default_factory=dict)  # of plumbline, torch, transformers
    inputs: dict[str, str] = field(default_factory=dict)  # what it was made of: see inputs_of
    seconds: float = 0.0


# Metric keys that the app reads by name; every other key is shown as it comes.
LOSS: Final = "train/loss"
TOO_LONG: Final = "data/too_long_{}"  # prompts, demonstrations, rankings that were left out
CUT: Final = "data/cut_{}"  # completions of demonstrations, of rankings
TIED: Final = "data/tied_rankings"  # that were left out: no completion is preferred to another
LEARNING_RATE: Final = "train/learning_rate"
SFT_VALID_LOSS: Final = "valid/loss_nats_per_token"
SFT_VALID_SCORE: Final = "valid/score"
SFT_CHOSEN_EPOCH: Final = "train/chosen_epoch"
RM_ACCURACY: Final = "valid/pairwise_accuracy"
RM_ACCURACY_LOW: Final = "valid/pairwise_accuracy_low"
RM_ACCURACY_HIGH: Final = "valid/pairwise_accuracy_high"
RM_PAIRS: Final = "valid/pairs"
RM_LONGER_WINS: Final = "valid/longer_wins_accuracy"
RM_CALIBRATION_ERROR: Final = "valid/calibration_error"
RM_SPREAD: Final = "valid/score_spread"
RM_BIAS: Final = "reward/bias"
PPO_SCORE: Final = "objective/score"
PPO_SPREAD: Final = "objective/score_spread"
PPO_REWARD: Final = "objective/reward"
PPO_KL: Final = "objective/kl_nats"
PPO_LENGTH: Final = "rollout/completion_tokens"
PPO_PTX_LOSS: Final = "ptx/loss_nats_per_token"
PPO_HELD_OUT_LOSS: Final = "ptx/held_out_loss_nats_per_token"  # its rise: the alignment tax


def write_json(path: Path, data: Any) -> None:
    """Write beside and rename, so that a reader sees all of the file or none of it."""
    with _beside(path) as file:
        json.dump(data, file, ensure_ascii=False, indent=1)


def write_records(path: Path, records: Iterable[_Record]) -> None:
    """JSONL, one record a line, whole or not there."""
    with _beside(path) as file:
        for record in records:
            file.write(json.dumps(record.to_json(), ensure_ascii=False) + "\n")


@contextmanager
def _beside(path: Path) -> Iterator[TextIO]:
    """A file that becomes `path` once it is whole and on the disk, and is gone where that fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_characters(kind: type[_Record], data: Any) -> None:
    """Raises ContractError where a text cannot be written: JSON may hold half a character."""
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.end]
        raise ContractError(
            f"{kind.__name__}: {half!r} is half a character (a lone surrogate)"
        ) from error


def read_spec(run_dir: Path) -> RunSpec:
    """The run's spec. Raises ContractError with the file and the reason."""
    path = run_dir / SPEC
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        _check_characters(RunSpec, data)
        return RunSpec.from_json(data)
    except FileNotFoundError:
        raise ContractError(f"{path}: not found; is {run_dir} a run directory?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ContractError(f"{path}: {error}") from error


def read_result(run_dir: Path) -> RunResult | None:
    """The run's result, or None while it has none. Raises ContractError with file and reason."""
    path = run_dir / RESULT
    try:
        return RunResult.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ContractError(f"{path}: {error}") from error


def inputs_of(run_dir: Path, spec: RunSpec) -> dict[str, str]:
    """The SHA-256 of the files of the run directory that decide what the run does, by name.

    Raises ContractError where one is missing.
    """
    digests = {}
    for name in (SPEC, *(f"{DATA}/{name}" for name in sorted(set(spec.data.values())))):
        try:
            with (run_dir / name).open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise ContractError(f"{run_dir / name}: not found") from None
        except OSError as error:
            raise ContractError(f"{run_dir / name}: {error.strerror}") from error
    return digests


def check_inputs(before: dict[str, str], now: dict[str, str], made: Path, instead: str) -> None:
    """Raises ContractError where what `made` was made of, if that is known, is no more as it was.

    instead says what to remove to make it anew.
    """
    if other := [name for name, digest in now.items() if before.get(name, digest) != digest]:
        raise ContractError(
            f"{made}: made with another {' and another '.join(other)}; put it back, or remove "
            f"{instead} to start over"
        )


R = TypeVar("R", bound=_Record)


def read_records(path: Path, kind: type[R]) -> Iterator[R]:
    """Stream the records of a JSONL file. Raises ContractError naming the line."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                data = json.loads(line)
                if "\\ud" in line.lower():  # an escape, of which a text may hold a half
                    _check_characters(kind, data)
                yield kind.from_json(data)
            except (ValueError, RecursionError) as error:
                raise ContractError(f"{path}, line {number}: {error}") from error
