"""The closed sets of words that tables use, stored as text with a check."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import Enum
from sqlalchemy.orm import MappedColumn, mapped_column


class Role(StrEnum):
    candidate = "candidate"
    labeler = "labeler"
    heldout_labeler = "heldout_labeler"
    reviewer = "reviewer"
    researcher = "researcher"


class Pool(StrEnum):
    """Whose labels train, and whose only judge (paper, section 3.3)."""

    training = "training"
    heldout = "heldout"


class Split(StrEnum):
    train = "train"
    valid = "valid"
    test = "test"


class UseCase(StrEnum):
    """The ten use cases of the paper's Table 1."""

    generation = "generation"
    open_qa = "open_qa"
    brainstorming = "brainstorming"
    chat = "chat"
    rewrite = "rewrite"
    summarization = "summarization"
    classification = "classification"
    other = "other"
    closed_qa = "closed_qa"
    extract = "extract"


class PiiState(StrEnum):
    """Whether a prompt holds personal information. Held and dropped ones are not worked on."""

    clear = "clear"  # nothing was found
    held = "held"  # something was found: waits for a researcher
    cleared = "cleared"  # a researcher: it is none, or may stay
    redacted = "redacted"  # a researcher: taken out of the text
    dropped = "dropped"  # a researcher: the prompt is not used


class FoldReason(StrEnum):
    """Why a prompt that came was not stored as one of its own."""

    exact = "exact"  # the same text is here
    prefix = "prefix"  # begins like one that is here, for long
    near = "near"  # nearly the same as one that is here
    other_side = "other_side"  # the same, and that one is in another split
    over_length = "over_length"  # more tokens than the study takes
    over_cap = "over_cap"  # its source user has as many prompts as the study takes


class PolicyKind(StrEnum):
    checkpoint = "checkpoint"  # one of our own
    external = "external"  # another system's completions: imported, or sampled from its endpoint


class SamplingState(StrEnum):
    """Of what an external system's endpoint is asked for."""

    queued = "queued"
    running = "running"  # claimed by a worker until lease_until
    finished = "finished"  # every request was answered, or cannot be
    failed = "failed"  # the system as a whole does not answer; what came is kept
    cancelled = "cancelled"  # by a researcher; what came is kept


class RequestState(StrEnum):
    """Of one completion that is asked for."""

    waiting = "waiting"
    done = "done"
    failed = "failed"


class LabelKind(StrEnum):
    demonstration = "demonstration"
    ranking = "ranking"
    prompt = "prompt"  # the labeler writes one


class WritingStyle(StrEnum):
    """The paper's three kinds of labeler-written prompts (appendix A)."""

    plain = "plain"  # any task
    few_shot = "few_shot"  # an instruction with several query and response pairs
    user_based = "user_based"  # after a stated use case


class Purpose(StrEnum):
    """Training labels may enter snapshots; evaluation labels never do."""

    training = "training"
    evaluation = "evaluation"


class LabelTaskState(StrEnum):
    open = "open"  # wants more labels
    complete = "complete"  # has as many as wanted
    closed = "closed"  # withdrawn by a researcher


class AssignmentState(StrEnum):
    leased = "leased"  # on a labeler's screen until lease_until
    reserved = "reserved"  # fetched ahead: the labeler's next, until lease_until
    submitted = "submitted"
    skipped = "skipped"  # the labeler gave a reason
    returned = "returned"  # the lease ran out; the draft is kept


class RunState(StrEnum):
    queued = "queued"  # waits for a worker
    running = "running"  # claimed; the claimant beats
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"

    @property
    def final(self) -> bool:
        return self in {RunState.succeeded, RunState.failed, RunState.cancelled}


class RunKindName(StrEnum):
    base = "base"
    sft = "sft"
    reward = "reward"
    ppo = "ppo"
    sample = "sample"


class RoundState(StrEnum):
    running = "running"
    waiting = "waiting"  # for labels
    failed = "failed"  # a run of it failed; retry goes on from there
    cancelled = "cancelled"
    finished = "finished"


class CheckpointKind(StrEnum):
    policy = "policy"
    reward_model = "reward_model"


class SnapshotKind(StrEnum):
    demonstrations = "demonstrations"
    rankings = "rankings"
    prompts = "prompts"
    pretraining = "pretraining"


class ExportKind(StrEnum):
    """What a file that leaves the study is about."""

    sft = "sft"  # prompts with their demonstrations
    rankings = "rankings"  # ordered tie groups
    comparisons = "comparisons"  # derived pairs: prompt, chosen, rejected
    preferences = "preferences"  # pairs with each labeler's preference and the soft label
    ratings = "ratings"  # overall quality and metadata, one completion a row
    prompts = "prompts"  # without labels, for PPO
    labeler = "labeler"  # everything of one labeler, for them
    prompt = "prompt"  # everything about one prompt


class ExportState(StrEnum):
    queued = "queued"
    running = "running"  # claimed by a worker until lease_until
    ready = "ready"
    failed = "failed"


class ExportFormat(StrEnum):
    jsonl = "jsonl"
    parquet = "parquet"


class ExportShape(StrEnum):
    """How a prompt with its completion is written."""

    text = "text"  # strings: prompt, completion, chosen, rejected
    messages = "messages"  # lists of {"role", "content"}


class UploadState(StrEnum):
    waiting = "waiting"  # for somebody to name its columns
    queued = "queued"
    running = "running"  # claimed by a worker until lease_until
    imported = "imported"
    refused = "refused"  # nothing of it is stored


class TokenScope(StrEnum):
    """What a token of the API may do; whoever may write may also read."""

    read = "read"
    write = "write"


class WebhookEvent(StrEnum):
    snapshot_ready = "snapshot.ready"  # an export is ready, with its snapshot if it froze one
    round_finished = "round.finished"
    batch_labeled = "batch.labeled"
    test = "test"  # sent by hand


class DeliveryState(StrEnum):
    queued = "queued"  # due at next_at
    delivered = "delivered"  # the receiver answered with 2xx
    failed = "failed"  # given up


def enum_column(
    kind: type[StrEnum], *, nullable: bool = False, constraint: str | None = None, **options: Any
) -> MappedColumn[Any]:
    """A text column that takes the values of `kind` and nothing else.

    `constraint` names its check where a table has two columns of one kind.
    """
    return mapped_column(
        Enum(
            kind,
            native_enum=False,
            create_constraint=True,
            length=32,
            values_callable=lambda members: [member.value for member in members],
            name=constraint or kind.__name__.lower(),
        ),
        nullable=nullable,
        **options,
    )
