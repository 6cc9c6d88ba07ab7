"""The queue of held prompts, a prompt's preparation and the use cases, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import Invalid
from app.models import FoldReason, PiiState, Prompt, Study, UseCase
from app.services.preparation.sifting import Preparation
from app.services.prompts import PromptRow, add_prompts
from tests import factories as make
from tests.routes.test_data_pages import client as client
from tests.routes.test_data_pages import sign_in, text_of

TEXT = "My name is Ines <b>Okafor</b>, write to ines@posteo.de."


@pytest.fixture
def study(session: Session, client: TestClient) -> Iterator[Study]:
    study = make.make_study(session, "A study")
    make.make_researcher(session, study, "rosa")
    session.commit()
    sign_in(client, "rosa")
    return study


def add(session: Session, study: Study, *rows: PromptRow) -> list[Prompt]:
    added = add_prompts(session, study, rows, preparation=Preparation(session, study))
    session.commit()
    return [session.get_one(Prompt, key) for key in added.prompt_ids if key is not None]


def test_a_held_prompt_is_redacted_and_held_again(
    session: Session, client: TestClient, study: Study
) -> None:
    [prompt] = add(session, study, PromptRow(text=TEXT))
    here = f"/studies/{study.slug}"
    assert "Personal information (1 held)" in text_of(client.get(f"{here}/prompts").text)
    page = client.get(f"{here}/pii").text
    assert '<mark title="name">Ines' in page
    assert "&lt;b&gt;" in page
    assert "<b>Okafor" not in page
    spans = prompt.pii_spans or []
    form = {"decision": "redact", "span": [str(n) for n in range(len(spans))]}
    done = client.post(f"{here}/pii/{prompt.id}", data=form)
    assert f"Prompt {prompt.id} was redacted." in text_of(done.text)
    session.refresh(prompt)
    assert prompt.text == "My name is [name] <b>Okafor</b>, write to [email]."
    shown = client.get(f"{here}/prompts/{prompt.id}").text
    assert "The text as it came" in shown
    assert "ines@posteo.de" in shown  # to researchers only
    client.post(f"{here}/pii/{prompt.id}/undo")
    session.refresh(prompt)
    assert (prompt.pii_state, prompt.text) == (PiiState.held, TEXT)


def test_what_cannot_be_decided_comes_back_with_the_reason(
    session: Session, client: TestClient, study: Study
) -> None:
    [prompt] = add(session, study, PromptRow(text=TEXT))
    here = f"/studies/{study.slug}/pii"
    page = client.post(f"{here}/{prompt.id}", data={"decision": "redact", "also": "<Nobody>"})
    assert page.status_code == 422
    assert "“<Nobody>” is not in the prompt." in text_of(page.text)
    assert "&lt;Nobody&gt;</textarea>" in page.text
    page = client.post(f"{here}/{prompt.id}", data={"decision": "redact"})
    assert "Choose at least one passage" in text_of(page.text)
    assert client.post(f"{here}/{prompt.id}", data={"decision": "drop"}).status_code == 200
    assert client.post(f"{here}/{prompt.id}", data={"decision": "clear"}).status_code == 409
    other = make.make_prompt(session, make.make_study(session, "Another"))
    session.commit()
    assert client.post(f"{here}/{other.id}", data={"decision": "drop"}).status_code == 404


def test_labelers_do_not_see_the_queue(session: Session, client: TestClient, study: Study) -> None:
    [prompt] = add(session, study, PromptRow(text=TEXT))
    make.make_labeler(session, study, "lena")
    session.commit()
    client.cookies.clear()
    sign_in(client, "lena")
    here = f"/studies/{study.slug}/pii"
    assert client.get(here).status_code == 404
    assert client.post(f"{here}/{prompt.id}", data={"decision": "clear"}).status_code == 404


def test_a_prompts_page_tells_what_it_stands_for(
    session: Session, client: TestClient, study: Study
) -> None:
    text = "Give me ten names for a small bakery in a harbour town that sells bread"
    first, _ = add(
        session,
        study,
        PromptRow(text=text, user="ann"),
        PromptRow(text=text.upper(), user="ann", external_id="loud", line=2),
    )
    here = f"/studies/{study.slug}/prompts"
    seen = text_of(client.get(f"{here}/{first.id}").text)
    assert "Language en Length 20 tokens, 71 characters" in seen
    assert "Stands for 1 prompt that came later" in seen
    assert "Normal form as it came" in seen
    assert "by a keyed hash of its source user" in seen
    assert "1 prompt here, of at most 200" in seen
    assert "nearly the same (1.00 of the pairs of words), loud" in seen


def test_use_cases_are_tagged_and_stand_beside_the_papers(
    session: Session, client: TestClient, study: Study
) -> None:
    prompts = [make.make_prompt(session, study) for _ in range(4)]
    session.commit()
    here = f"/studies/{study.slug}/prompts"
    for prompt, use_case in zip(prompts, ["chat", "chat", "extract", ""], strict=True):
        form = {"use_case": use_case}
        assert client.post(f"{here}/{prompt.id}/use-case", data=form).status_code == 200
    tagged = session.scalars(select(Prompt.use_case).order_by(Prompt.id)).all()
    assert tagged == [UseCase.chat, UseCase.chat, UseCase.extract, None]
    seen = text_of(client.get(here).text)
    assert "chat 2 66.7 % 8.4 % rewrite 0 0.0 % 6.6 %" in seen
    bad = client.post(f"{here}/{prompts[0].id}/use-case", data={"use_case": "poetry"})
    assert bad.status_code == 422


def test_how_prompts_are_prepared_can_be_changed(
    session: Session, client: TestClient, study: Study
) -> None:
    here = f"/studies/{study.slug}/preparation"
    form = {
        "cap": "2",
        "max_tokens": "1000",
        "prefix_characters": "256",
        "near_similarity": "0.8",
        "near_duplicates": "keep",
    }
    saved = client.post(here, data=form)
    assert "Saved." in text_of(saved.text)
    session.refresh(study)
    assert study.preparation == {"cap": 2, "near_duplicates": "keep", "pii": False}
    bad = client.post(here, data=form | {"near_similarity": "1.5"})
    assert bad.status_code == 422
    assert "Near-duplicates from: input should be less than or equal to 1." in text_of(bad.text)
    assert 'value="1.5"' in bad.text
    session.refresh(study)
    assert study.preparation["cap"] == 2


def test_a_tokenizer_is_loaded_before_it_is_set(
    session: Session, client: TestClient, study: Study, tmp_path: Path
) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="the extra `train`")
    here = f"/studies/{study.slug}/preparation"
    form = {"cap": "2", "max_tokens": "4", "prefix_characters": "0", "near_similarity": "0.8"}
    form["near_duplicates"] = "fold"
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    for path, reason in (
        ("tokenizer.json", "Tokenizer: give the whole path"),
        (str(tmp_path / "none.json"), "Tokenizer: there is no file"),
        (str(broken), "is no tokenizer.json"),
    ):
        refused = client.post(here, data=form | {"tokenizer": path})
        assert refused.status_code == 422
        assert reason in text_of(refused.text)
        assert f'value="{path}"' in refused.text
    model = tokenizers.models.WordLevel({"one": 0, "?": 1}, unk_token="?")
    words = tokenizers.Tokenizer(model)
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.enable_padding(length=50)  # of batches: no length of a text
    words.save(str(tmp_path / "tokenizer.json"))
    saved = client.post(here, data=form | {"tokenizer": f" {tmp_path / 'tokenizer.json'} "})
    assert "Saved." in text_of(saved.text)
    session.refresh(study)
    rows = [PromptRow(text="one two three four"), PromptRow(text="one two three four five")]
    added = add_prompts(session, study, rows, preparation=Preparation(session, study))
    assert (added.stored, dict(added.folded)) == (1, {FoldReason.over_length: 1})
    [prompt_id] = [key for key in added.prompt_ids if key is not None]
    assert session.get_one(Prompt, prompt_id).tokens == 4
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(Invalid, match="there is no file"):
        Preparation(session, study)
    cleared = client.post(here, data=form | {"tokenizer": ""})
    assert "Saved." in text_of(cleared.text)
    session.refresh(study)
    assert "tokenizer" not in study.preparation
