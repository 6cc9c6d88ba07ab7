"""The model card: valid metadata, filled from the run, and no labeler in it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from tests.trainer.conftest import MakeRun, demonstrations, rankings
from tests.trainer.test_models import encoder_of
from trainer.card import model_card
from trainer.contract import RM_ACCURACY, RunResult, read_result, read_spec
from trainer.models import load_tokenizer
from trainer.passes import score_completions

pytestmark = pytest.mark.train


def test_a_trained_model_has_its_card(reward_run: Path) -> None:
    card = ModelCard.load(reward_run / "model" / "README.md")
    assert card.data.to_dict() == {
        "license": "unknown",
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["plumbline", "rlhf", "plumbline-reward"],
    }
    result = read_result(reward_run)
    assert result is not None
    digest = hashlib.sha256((reward_run / "data" / "rankings.jsonl").read_bytes()).hexdigest()
    assert f"| rankings |  | 128 | train 96, valid 32 | 16 | 1 | {digest} |" in card.text
    assert f"| {RM_ACCURACY} | {result.metrics[RM_ACCURACY]:.6g} |" in card.text
    assert "| learning_rate | 0.003 |" in card.text
    assert "- init: a local model" in card.text
    assert str(reward_run.parent) not in card.text
    assert "## Intended use\n\nTo score completions of prompts like those" in card.text
    assert "## Limits\n\nScores of different prompts cannot be compared." in card.text


def test_its_code_scores_as_the_trainer_does(reward_run: Path, reward_model: Any) -> None:
    (code,) = re.findall(
        "```python\n(.*?)```", (reward_run / "model" / "README.md").read_text(), re.DOTALL
    )
    names: dict[str, Any] = {"directory": str(reward_run / "model")}
    exec(code, names)
    given = [(d["prompt"], d["completion"]) for d in demonstrations()]
    given += [("Say <|endoftext|> twice.", "<|pad|> and <|endoftext|>"), ("", "")]
    encoder = encoder_of(load_tokenizer(names["directory"]), max_completion_tokens=40)
    expected, _ = score_completions(
        reward_model, encoder, *map(list, zip(*given, strict=True)), 500
    )
    assert [names["score"](*one) for one in given] == pytest.approx(expected, abs=1e-5)


def test_a_local_directory_is_no_name_of_the_hub(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "EleutherAI" / "pythia-70m").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    card = card_of(make_run)
    assert card.data.base_model is None
    assert "- init: a local model" in card.text


def card_of(make_run: MakeRun, **changes: Any) -> ModelCard:
    run = make_run(
        "run",
        kind="reward",
        models={"init": "EleutherAI/pythia-70m"},
        data={
            "rankings": [{**r, "labeler": "labeler-0a1b2c"} for r in rankings()],
            "demonstrations": demonstrations(),
        },
        **changes,
    )
    result = RunResult(kind="reward", model="model", metrics={}, versions={"torch": "1"})
    return ModelCard(model_card(run, read_spec(run), result))


def test_what_the_app_knows_is_in_it(make_run: MakeRun) -> None:
    card = card_of(
        make_run,
        about={
            "study": "Everyday | help <script>",
            "run": 17,
            "snapshots": {"rankings": "#12"},
            "parents": {"init": "checkpoint sft #3"},
            "agreement": {"rate": 0.726, "low": 0.711, "high": 0.741, "n": 3000},
            "license": "cc-by-4.0",
        },
    )
    assert card.data.license == "cc-by-4.0"
    assert card.data.base_model == ["EleutherAI/pythia-70m"]
    assert "of run 17 of the study Everyday \\| help &lt;script>" in card.text
    assert "| rankings | #12 | 16 |" in card.text
    assert "- init: checkpoint sft #3" in card.text
    assert "agree on 72.6 % of comparisons (71.1 to 74.1 %, 3000 comparisons)" in card.text
    assert "labeler-0a1b2c" not in card.text


def test_without_the_app_it_says_what_it_does_not_know(make_run: MakeRun) -> None:
    card = card_of(make_run)
    assert "- init: EleutherAI/pythia-70m" in card.text
    assert "The run does not state one" in card.text
    assert "agree on" not in card.text


def test_a_prompt_template_cannot_break_the_card(make_run: MakeRun) -> None:
    template = "---\nlicense: `none`\n{prompt}|\n"
    card = card_of(make_run, prompt_template=template)
    assert card.data.license == "unknown"
    assert f"``{json.dumps(template)}``" in card.text
