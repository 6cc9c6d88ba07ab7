"""README.md beside the files of one format: for people, and as a card for `load_dataset`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from app.services.exporting.columns import Fields, Type
from app.services.exporting.query import REASONS
from app.services.exporting.writers import WrittenFile

_FEATURES: Mapping[Type, Mapping[str, Any]] = {
    Type.text: {"dtype": "string"},
    Type.integer: {"dtype": "int64"},
    Type.number: {"dtype": "float64"},
    Type.flag: {"dtype": "bool"},
    Type.texts: {"list": "string"},
    Type.integers: {"list": "int64"},
    Type.numbers: {"list": "float64"},
    Type.groups: {"list": {"list": "int64"}},
    Type.messages: {
        "list": [{"name": "role", "dtype": "string"}, {"name": "content", "dtype": "string"}]
    },
}


def card(manifest: Mapping[str, Any], fields: Fields, files: Sequence[WrittenFile]) -> str:
    """Markdown below a YAML head that names files and columns: JSON is YAML."""
    features = [{"name": name, **_FEATURES[kind]} for name, kind in fields.items()]
    data_files = [
        {
            "split": "train" if file.split == "records" else file.split,
            "path": PurePath(file.name).name,
        }
        for file in files
    ]
    head = {
        "configs": [{"config_name": "default", "data_files": data_files}],
        "dataset_info": {"features": features},
    }
    lines = [
        "---",
        *(f"{name}: {json.dumps(value)}" for name, value in head.items()),
        "---",
        "",
        f"# {manifest['study']}: {manifest['kind']}",
        "",
        f"{manifest['rows']:,} rows about {manifest['prompts']:,} prompts, made by Plumbline at "
        f"{manifest['made_at']}.",
        "",
        *left_out_sentences(manifest),
        "",
        "| column | holds |",
        "|---|---|",
        *(f"| `{name}` | {kind.name} |" for name, kind in fields.items()),
        "",
        "`manifest.json` above has the query, the counts, the labelers by pseudonym, the guideline",
        "versions and each file's SHA-256.",
    ]
    return "\n".join(lines) + "\n"


def left_out_sentences(manifest: Mapping[str, Any]) -> list[str]:
    """What is not in the files, and why."""
    left_out = manifest["left_out"]
    if not left_out:
        return ["Nothing was left out."]
    return [
        f"Left out: {count:,} {manifest['counted']} {REASONS[reason]}."
        for reason, count in left_out.items()
    ]
