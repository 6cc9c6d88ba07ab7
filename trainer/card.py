"""The model card: README.md of every model directory, filled from the run that made it.

Its front matter is Hugging Face's card metadata. What only the app knows comes in RunSpec.about:

    study, run        names, for the first line
    parents           {part of RunSpec.models: what it is called}
    snapshots         {part of RunSpec.data: the app's name of the snapshot}
    agreement         {"rate", "low", "high", "n"}: of two labelers, comparisons that both made
    license           an identifier of Hugging Face's list

Labelers appear as a number only.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any, Final

from trainer.config import CONFIGS
from trainer.contract import DATA, MODEL, RM_BIAS, RunKind, RunResult, RunSpec

CARD: Final = "README.md"
TITLES: Final[dict[RunKind, str]] = {
    "base": "Starter base model",
    "sft": "SFT policy",
    "reward": "Reward model",
    "ppo": "PPO policy",
}
PURPOSES: Final[dict[RunKind, tuple[str, str]]] = {
    "base": (
        "To try out the whole loop on one machine, as what SFT starts from.",
        "It is small and has read little text: it knows nothing of the world, and nothing was "
        "done to make what it writes true or harmless.",
    ),
    "sft": (
        "To answer prompts like those it was trained on; to start the reward model and PPO from, "
        "and as PPO's reference policy.",
        "It imitates its labelers' demonstrations, their mistakes and their views among them, and "
        "may make things up. Its labelers are not representative of those whom it may affect.",
    ),
    "reward": (
        "To score completions of prompts like those it was trained on, for PPO and best-of-n: a "
        "difference of two scores is the log odds that a labeler prefers the one completion.",
        "Scores of different prompts cannot be compared. It has learned what these labelers "
        "prefer, which is neither truth nor harmlessness, and is less sure of completions unlike "
        "those it saw: a policy trained against it for long finds what it overrates.",
    ),
    "ppo": (
        "To answer prompts like those it was trained on.",
        "It was trained towards what a reward model scores highly: it may please instead of "
        "being right, make things up, and follow instructions that do harm. Its labelers are not "
        "representative of those whom it may affect.",
    ),
}


def model_card(run_dir: Path, spec: RunSpec, result: RunResult) -> str:
    """The card of the run's model: YAML front matter, then Markdown."""
    title = TITLES[spec.kind]
    intended, limits = PURPOSES[spec.kind]
    about = spec.about
    origin = (
        f", of run {about['run']} of the study {_cell(about['study'])}" if "run" in about else ""
    )
    config = CONFIGS[spec.kind].build(spec.preset, spec.config)
    data = {part: _counts(run_dir / DATA / name) for part, name in sorted(spec.data.items())}
    parts = [
        _front_matter(spec),
        f"# {title}\n\nMade by Plumbline{origin}, as in InstructGPT (Ouyang et al. 2022).",
        f"## Intended use\n\n{intended}",
        f"## Limits\n\n{limits}",
        *([_scoring(spec, result)] if spec.kind == "reward" else []),
        "## Data\n\n" + _data_table(spec, data) + _agreement(about),
        "## Parents\n\n" + _parents(spec),
        "## Figures\n\n" + _table(["figure", "value"], _rows(result.metrics)) + _epochs(result),
        f"## Configuration\n\nPreset `{spec.preset}`, seed {spec.seed}, prompt template "
        f"{_code(json.dumps(spec.prompt_template))}; overrides: "
        f"{_code(json.dumps(spec.config, sort_keys=True))}.\n\n"
        + _table(["field", "value"], _rows(vars(config))),
        "## Versions\n\n" + _table(["package", "version"], sorted(result.versions.items())),
        f"## Licence\n\n{_licence(about)}",
    ]
    return "\n\n".join(parts) + "\n"


def write_card(run_dir: Path, spec: RunSpec, result: RunResult) -> None:
    """Write the card into the run's model directory."""
    (run_dir / MODEL / CARD).write_text(model_card(run_dir, spec, result), encoding="utf-8")


def _scoring(spec: RunSpec, result: RunResult) -> str:
    """How a program without Plumbline gets the scores of a reward model."""
    bias = "that puts the demonstrations at 0 on average"
    if RM_BIAS not in result.metrics:
        bias = "(no demonstrations set it: what a score of 0 means is not known)"
    return f"""## Scores

The logit lacks the bias {bias}, which `config.json` holds as
`reward_bias`: it is to be added. Prompt, completion and end-of-text stand one after the other. It
was trained on completions of up to max_completion_tokens.

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained(directory)
tokenizer = AutoTokenizer.from_pretrained(directory)


def score(prompt: str, completion: str) -> float:
    text = {spec.prompt_template!r}.replace("{{prompt}}", prompt)
    plain = {{"split_special_tokens": True}}  # text never becomes a special token
    ids = tokenizer(text, **plain)["input_ids"]
    ids += tokenizer(completion, add_special_tokens=False, **plain)["input_ids"]
    ids += [tokenizer.eos_token_id]
    with torch.no_grad():
        logit = model(input_ids=torch.tensor([ids])).logits[0, 0].item()
    return logit + model.config.reward_bias
```"""


def _front_matter(spec: RunSpec) -> str:
    from huggingface_hub import ModelCardData

    hub_names = {name for name in spec.models.values() if _is_hub_name(name)}
    card = ModelCardData(
        license=spec.about.get("license", "unknown"),
        library_name="transformers",
        pipeline_tag="text-classification" if spec.kind == "reward" else "text-generation",
        tags=["plumbline", "rlhf", f"plumbline-{spec.kind}"],
        base_model=sorted(hub_names) or None,
    )
    return f"---\n{card.to_yaml()}\n---"


def _is_hub_name(source: str) -> bool:
    """Whether a model comes from Hugging Face's hub: `name` or `owner/name`, and no directory."""
    local = source.startswith((".", "/", "~")) or Path(source).is_dir()
    return not local and source.count("/") < 2


def _counts(path: Path) -> dict[str, Any]:
    """Records of a data file by split, its prompts and labelers, and the SHA-256 of its bytes."""
    digest = hashlib.sha256()
    splits: Counter[str] = Counter()
    prompts: set[int] = set()
    labelers: set[str] = set()
    with path.open("rb") as file:
        for line in file:
            digest.update(line)
            record = json.loads(line)
            splits[record.get("split", "all")] += 1
            if "prompt_id" in record:
                prompts.add(record["prompt_id"])
            if "labeler" in record:
                labelers.add(record["labeler"])
    return {
        "records": sum(splits.values()),
        "splits": ", ".join(f"{name} {n}" for name, n in sorted(splits.items()) if name != "all"),
        "prompts": len(prompts) or "",
        "labelers": len(labelers) or "",
        "sha256": digest.hexdigest(),
    }


def _data_table(spec: RunSpec, data: dict[str, dict[str, Any]]) -> str:
    names = spec.about.get("snapshots", {})
    rows = [
        [part, str(names.get(part, "")), *map(str, counts.values())]
        for part, counts in data.items()
    ]
    head = ["data", "snapshot", "records", "by split", "prompts", "labelers", "SHA-256"]
    return _table(head, rows)


def _agreement(about: dict[str, Any]) -> str:
    agreement = about.get("agreement")
    if not agreement:
        return ""
    rate, low, high = (100 * agreement[key] for key in ("rate", "low", "high"))
    return (
        f"\n\nTwo labelers who ranked the same completions agree on {rate:.1f} % of comparisons "
        f"({low:.1f} to {high:.1f} %, {agreement['n']} comparisons)."
    )


def _parents(spec: RunSpec) -> str:
    if not spec.models:
        return "None: it was trained from nothing."
    names = spec.about.get("parents", {})
    return "\n".join(
        f"- {part}: {_cell(names.get(part, source if _is_hub_name(source) else 'a local model'))}"
        for part, source in sorted(spec.models.items())
    )


def _epochs(result: RunResult) -> str:
    """What was measured after each epoch of SFT, from which one was chosen."""
    rows = result.figures.get("epochs")
    if not rows:
        return ""
    head = list(rows[0])
    table = _table(head, [[f"{row[key]:.6g}" for key in head] for row in rows])
    return f"\n\nAfter each epoch, on the validation split:\n\n{table}"


def _licence(about: dict[str, Any]) -> str:
    if "license" in about:
        return f"`{about['license']}`, and the terms of the data and of the parents."
    return (
        "The run does not state one: the licences of its parents and of its data hold. "
        "State it before you publish the model."
    )


def _rows(values: dict[str, Any]) -> list[list[str]]:
    return [
        [name, f"{value:.6g}" if isinstance(value, float) else str(value)]
        for name, value in sorted(values.items())
    ]


def _table(head: list[str], rows: list[Any]) -> str:
    if not rows:
        return "None."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(str(cell)) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text that stays in its table cell and is no markup."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _code(text: str) -> str:
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}"
