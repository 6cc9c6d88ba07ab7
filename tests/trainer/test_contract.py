"""What is not of the contract is refused, with the file, the field and the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import demonstrations, rankings
from trainer.contract import (
    ContractError,
    DemonstrationRecord,
    MetricLine,
    RankingRecord,
    read_records,
    read_spec,
    write_json,
)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "dpo"}, "kind is 'dpo', none of base, sft, reward, ppo, sample"),
        ({"seed": "abc"}, "seed is 'abc', not of type int"),
        ({"seed": True}, "seed is True, not of type int"),
        ({"models": None}, "models is None, not of type dict[str, str]"),
        ({"models": {"init": 3}}, "models is {'init': 3}, not of type dict[str, str]"),
        ({"config": None}, "config is None, not of type dict[str, typing.Any]"),
        ({"data": {"demonstrations": None}}, "data is {'demonstrations': None}, not of type"),
        ({"prompt_template": 5}, "prompt_template is 5, not of type str"),
        ({"prompt_template": "Q:"}, "must contain {prompt} exactly once"),
        ({"data": {"demonstrations": "/tmp/d.jsonl"}}, "'/tmp/d.jsonl' does not lie in data/"),
        ({"data": {"demonstrations": "../d.jsonl"}}, "'../d.jsonl' does not lie in data/"),
        ({"about": {"study": "\ud83d"}}, "'\\ud83d' is half a character"),
        ({"sead": 1}, "unknown keys ['sead']"),
        ({"data": {"demonstration": "d.jsonl"}}, "data ['demonstration'] are none of kind sft"),
        ({"models": {"rewrad": "m"}}, "models ['rewrad'] are none of kind sft, which has init, re"),
        ({"kind": "base", "models": {"init": "m"}}, "of kind base, which has none"),
        ({"about": {"run": 1}}, "about names a run without its study"),
        ({"about": {"snapshots": []}}, "about snapshots is [], not of type"),
        ({"about": {"agreement": {"rate": "x"}}}, "about agreement is {'rate': 'x'}, not of type"),
        ({"about": {"agreement": {"rate": 1}}}, "about agreement lacks ['high', 'low', 'n']"),
    ],
)
def test_a_spec(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    (tmp_path / "spec.json").write_text(json.dumps({"kind": "sft", **changed}))
    with pytest.raises(ContractError) as refused:
        read_spec(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path / 'spec.json'}: RunSpec: ")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "changed", "message"),
    [
        (DemonstrationRecord, {"split": "validation"}, "'validation', none of train, valid, test"),
        (DemonstrationRecord, {"completion": None}, "completion is None, not of type str"),
        (RankingRecord, {"groups": [["0"]]}, "groups is [['0']], not of type list[list[int]]"),
        (RankingRecord, {"completions": "abcdef"}, "completions is 'abcdef', not of type list"),
        (RankingRecord, {"groups": [[0, 1]]}, "do not hold each of the 6 completions once"),
        (RankingRecord, {"groups": [[0, 1, 2], [], [3, 4, 5]]}, "once, and nothing else"),
        (DemonstrationRecord, {"completion": "a \ud83d b"}, "'\\ud83d' is half a character"),
    ],
)
def test_a_record(tmp_path: Path, kind: type[Any], changed: dict[str, Any], message: str) -> None:
    good = (demonstrations() if kind is DemonstrationRecord else rankings())[0]
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, **changed}) + "\n")
    records = read_records(path, kind)
    assert next(records) == kind.from_json(good)
    with pytest.raises(ContractError) as refused:
        next(records)
    assert str(refused.value).startswith(f"{path}, line 2: {kind.__name__}")
    assert message in str(refused.value)


def test_a_character_of_two_halves_is_one(tmp_path: Path) -> None:
    good = {**demonstrations()[0], "completion": "a \U0001f600 b \\ud83d"}
    (tmp_path / "records.jsonl").write_text(json.dumps(good) + "\n")
    (record,) = read_records(tmp_path / "records.jsonl", DemonstrationRecord)
    assert record.completion == "a \U0001f600 b \\ud83d"


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    write_json(tmp_path / "some.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "some.json", {"a": object()})
    assert json.loads((tmp_path / "some.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["some.json"]


def test_a_whole_number_is_a_float_too() -> None:
    line = MetricLine.from_json({"step": 1, "total_steps": 2, "time": 3, "values": {"a": 4}})
    assert line.values == {"a": 4}
    with pytest.raises(ContractError, match="values is"):
        MetricLine.from_json({"step": 1, "total_steps": 2, "time": 3, "values": {"a": "4"}})
