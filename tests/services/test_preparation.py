"""What becomes of prompts on their way in: what is stored, what stands for others, which side."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.models import (
    DuplicateGroup,
    FoldedPrompt,
    FoldReason,
    PiiState,
    Prompt,
    PromptSketch,
    Split,
    Study,
    UseCase,
)
from app.services.preparation.near_index import BUCKET, NearIndex
from app.services.preparation.sifting import Preparation
from app.services.preparation.sketches import BANDS, bands, jaccard, shingles
from app.services.preparation.texts import (
    comparison_form,
    count_tokens,
    language_of,
    prefix_hash,
)
from app.services.preparation.use_cases import Classifier
from app.services.prompts import AddedPrompts, PromptRow, add_prompts, split_of
from tests.factories import make_prompt, make_study

LIST = "Give me ten names for a small bakery in a harbour town that sells rye bread and cakes"


@pytest.fixture
def study(session: Session) -> Study:
    return make_study(session)


def add(session: Session, study: Study, *rows: PromptRow) -> AddedPrompts:
    return add_prompts(session, study, rows, preparation=Preparation(session, study))


def user_of(study: Study, split: Split) -> str:
    """The name of a user whom the study's key puts into the split."""
    names = (f"user {number}" for number in range(1000))
    return next(name for name in names if split_of(study, name) is split)


def texts(session: Session, study: Study) -> list[str]:
    where = Prompt.study_id == study.id
    return list(session.scalars(select(Prompt.text).where(where).order_by(Prompt.id)))


def test_comparison_ignores_case_white_space_and_compatible_characters() -> None:
    assert comparison_form("Ｗrite\n a  ﬁne Straße ") == "write a fine strasse"
    assert comparison_form("İ") == comparison_form("i̇")


def test_shingles_are_pairs_of_words_with_the_ends() -> None:
    # |a ab b| against |a ac c|: one pair of five is common to both.
    assert jaccard(shingles("a b"), shingles("a c")) == 1 / 5
    assert len(shingles("one two three")) == 4
    assert shingles("what is 5 < 3?") != shingles("what is 5 > 3?")
    assert shingles("well, yes!") == shingles("well yes")
    assert len(shingles("日本の首都")) == 6  # five characters, no spaces between
    assert len(shingles("?!")) == 2


def test_near_texts_share_a_band_and_others_do_not() -> None:
    """500 pairs at 0.83 (3 of 60 words changed) and 500 of other words."""
    draw = random.Random(4)
    words = [f"word{number}" for number in range(5_000)]
    found = strangers = 0
    for _ in range(500):
        one = draw.choices(words, k=60)
        other = list(one)
        for place in draw.sample(range(60), 3):
            other[place] = draw.choice(words)
        mine = set(bands(shingles(" ".join(one))))
        found += bool(mine & set(bands(shingles(" ".join(other)))))
        strangers += bool(mine & set(bands(shingles(" ".join(draw.choices(words, k=60))))))
    assert found >= 480
    assert strangers <= 5


def test_the_index_finds_what_was_added_and_bounds_its_buckets() -> None:
    draw = random.Random(5)
    index = NearIndex()
    sketches = [[draw.randrange(-(2**31), 2**31) for _ in range(BANDS)] for _ in range(5_000)]
    for sketch in sketches:
        index.add(sketch)
    assert all(index.near(sketch)[0] == number for number, sketch in enumerate(sketches))
    assert index.near([draw.randrange(-(2**31), 2**31) for _ in range(BANDS)]) == []
    for _ in range(100):
        last = index.add(sketches[0])
    assert last == 5_099
    assert index.near(sketches[0]) == [0, *range(5_000, 5_000 + BUCKET - 1)]


def test_languages_and_lengths() -> None:
    assert language_of("Schreibe ein Gedicht über das Meer.") == "de"
    assert language_of("日本の首都はどこですか") == "ja"
    assert language_of("Write\x01 a poem\ufffe about the sea and the wind.") == "en"
    assert language_of("42") is None
    assert count_tokens("word " * 1000) == 1_300  # 1.3 a word are more than 5,000 / 4
    assert count_tokens("a" * 400) == 100
    assert count_tokens("日本") == 2


def test_prefixes_are_compared_beyond_their_length_only() -> None:
    assert prefix_hash("a" * 256, 256) is None
    assert prefix_hash("a" * 257, 256) == prefix_hash("a" * 256 + "b", 256) is not None
    assert prefix_hash("a" * 300, 0) is None


def test_near_duplicates_and_long_beginnings_are_folded(session: Session, study: Study) -> None:
    long = "You sort letters of complaint for a railway. " * 8  # 368 characters
    added = add(
        session,
        study,
        PromptRow(text=LIST, user="ann", line=1),
        PromptRow(text=LIST.upper() + "!", user="ann", external_id="loud", line=2),
        PromptRow(text=LIST, user="ann", line=3),
        PromptRow(text=long + "The train was late.", user="ann", line=4),
        PromptRow(text=long + "Nobody sold us any coffee at all on Monday.", user="ann", line=5),
        PromptRow(text="Name ten rivers of Norway.", user="ann", line=6),
    )
    assert (added.stored, added.duplicates) == (3, 3)
    assert added.lines == {FoldReason.near: [2], FoldReason.exact: [3], FoldReason.prefix: [5]}
    first, again, exact, letters, more, _ = added.prompt_ids
    assert (again, exact, more) == (first, first, letters)
    rows = session.scalars(select(FoldedPrompt).order_by(FoldedPrompt.id)).all()
    assert [(r.reason, r.external_id, r.line, r.prompt_id, r.similarity) for r in rows] == [
        (FoldReason.near, "loud", 2, first, 1.0),
        (FoldReason.prefix, None, 5, letters, None),
    ]
    repeated = add(
        session, study, PromptRow(text=LIST.upper() + "!", user="ann", external_id="loud")
    )
    assert (repeated.stored, repeated.folded[FoldReason.near]) == (0, 1)
    assert session.scalar(select(func.count()).select_from(FoldedPrompt)) == 2


def test_near_duplicates_may_be_kept_as_one_group(session: Session, study: Study) -> None:
    study.preparation = {"near_duplicates": "keep"}
    rows = [PromptRow(text=f"{LIST}{mark}", user="ann") for mark in ("", "!", "?")]
    added = add(session, study, *rows)
    assert added.stored == 3
    groups = set(session.scalars(select(Prompt.duplicate_group)))
    assert groups == {session.scalars(select(DuplicateGroup.id)).one()}
    later = add(session, study, PromptRow(text=LIST + " .", user="ann"))
    assert later.stored == 1
    assert set(session.scalars(select(Prompt.duplicate_group))) == groups


@pytest.mark.parametrize("kept", ["fold", "keep"])
def test_no_two_splits_hold_nearly_the_same_prompt(
    session: Session, study: Study, kept: str
) -> None:
    study.preparation = {"near_duplicates": kept}
    tester, learner = user_of(study, Split.test), user_of(study, Split.train)
    first = add(session, study, PromptRow(text=LIST, user=tester))
    late = add(session, study, PromptRow(text=LIST + " today", user=learner, line=7))
    assert (late.stored, late.lines) == (0, {FoldReason.other_side: [7]})
    assert late.prompt_ids == first.prompt_ids
    assert texts(session, study) == [LIST]


def test_whatever_the_order_no_pair_is_near_across_splits(session: Session, study: Study) -> None:
    """300 prompts of 30 families and 40 users, in three imports."""
    draw = random.Random(6)
    words = [f"word{number}" for number in range(300)]
    bases = [draw.choices(words, k=40) for _ in range(30)]

    def family() -> str:
        found = list(draw.choice(bases))
        for place in draw.sample(range(40), draw.randrange(4)):
            found[place] = draw.choice(words)
        return " ".join(found)

    study.preparation = {"near_duplicates": "keep"}
    for _ in range(3):
        add(
            session,
            study,
            *(PromptRow(text=family(), user=f"user {draw.randrange(40)}") for _ in range(100)),
        )
    stored = session.execute(select(Prompt.split, Prompt.text, Prompt.duplicate_group)).all()
    assert len(stored) > 100
    known = [(split, shingles(text), group) for split, text, group in stored]
    near = [
        (one, other)
        for number, one in enumerate(known)
        for other in known[:number]
        if jaccard(one[1], other[1]) >= 0.9  # where the index misses hardly any
    ]
    assert len(near) > 30
    assert all(one[0] == other[0] for one, other in near)
    sides = select(func.count(Prompt.split.distinct())).group_by(Prompt.duplicate_group)
    grouped = sides.where(Prompt.duplicate_group.is_not(None))
    assert set(session.scalars(grouped)) == {1}


def test_the_database_refuses_a_group_on_two_sides(session: Session, study: Study) -> None:
    group = DuplicateGroup(study_id=study.id, split=Split.train)
    session.add(group)
    session.flush()
    prompt = make_prompt(session, study, split=Split.test)
    with pytest.raises(IntegrityError, match="fk_prompts_duplicate_group_study_id_split"):
        session.execute(
            update(Prompt).where(Prompt.id == prompt.id).values(duplicate_group=group.id)
        )


def test_the_cap_counts_what_is_stored_of_a_user(session: Session, study: Study) -> None:
    study.preparation = {"cap": 3}
    names = "rivers lakes towns birds trees poets dishes"

    def rows(user: str | None) -> Sequence[PromptRow]:
        return [
            PromptRow(text=f"{user}: which are the {name}?", user=user, line=line)
            for line, name in enumerate(names.split(), 1)
        ]

    added = add(session, study, *rows("ann"))
    assert (added.stored, added.lines) == (3, {FoldReason.over_cap: [4, 5, 6, 7]})
    assert added.prompt_ids[3:] == [None] * 4
    assert added.duplicates == 0
    again = add(session, study, *rows("ann"))
    assert (again.stored, again.folded[FoldReason.exact]) == (0, 3)
    assert again.folded[FoldReason.over_cap] == 4
    study.preparation = {"cap": 5}
    assert add(session, study, *rows("ann")).stored == 2
    assert add(session, study, *rows(None)).stored == 7  # each is its own user


def test_long_prompts_are_left_out_and_counted(session: Session, study: Study) -> None:
    words = [f"word{number}" for number in range(800)]  # 1.3 tokens a word
    added = add(
        session,
        study,
        PromptRow(text=" ".join(words), line=1),
        PromptRow(text=" ".join(words[:400]), line=2),
    )
    assert added.lines == {FoldReason.over_length: [1]}
    prompt = session.scalars(select(Prompt)).one()
    assert (prompt.tokens, prompt.language) == (count_tokens(prompt.text), language_of(prompt.text))


def test_personal_information_is_held(session: Session, study: Study) -> None:
    text = "My name is Ines Okafor, write to ines.okafor@posteo.de."
    added = add(session, study, PromptRow(text=text), PromptRow(text="Name ten rivers."))
    assert (added.stored, added.held) == (2, 1)
    held, clear = session.scalars(select(Prompt).order_by(Prompt.id)).all()
    assert (held.pii_state, clear.pii_state) == (PiiState.held, PiiState.clear)
    assert held.pii_spans is not None
    assert [(s["kind"], text[s["start"] : s["end"]]) for s in held.pii_spans] == [
        ("name", "Ines Okafor"),
        ("email", "ines.okafor@posteo.de"),
    ]
    study.preparation = {"pii": False}
    assert add(session, study, PromptRow(text=text + " Soon!!")).held == 0


def test_prompts_that_came_without_preparation_are_compared_too(
    session: Session, study: Study
) -> None:
    add_prompts(session, study, [PromptRow(text=LIST, user="ann")])
    assert session.scalar(select(func.count()).select_from(PromptSketch)) == 0
    added = add(session, study, PromptRow(text=LIST + "!", user="ann"))
    assert added.folded == {FoldReason.near: 1}


def test_a_few_prompts_are_compared_by_the_database(session: Session, study: Study) -> None:
    add(session, study, PromptRow(text=LIST, user="ann"))
    few = Preparation(session, study, few=True)
    row = PromptRow(text=LIST + "!", user="ann")
    assert add_prompts(session, study, [row], preparation=few).folded == {FoldReason.near: 1}


def test_use_cases_are_suggested_from_what_was_tagged(session: Session, study: Study) -> None:
    things = [f"thing{number} of kind{number % 7}" for number in range(40)]
    tagged = [(f"Summarize this text about {t}.", UseCase.summarization) for t in things]
    tagged += [(f"Write a poem about {t}.", UseCase.generation) for t in things]
    classifier = Classifier(tagged)
    for text, use_case in (
        ("Summarize this text about whales.", UseCase.summarization),
        ("Write a short poem for my uncle.", UseCase.generation),
    ):
        suggestion = classifier.suggest(text)
        assert suggestion.use_case is use_case
        assert 0.9 < suggestion.confidence <= 1
    study.preparation = {"near_similarity": 0}
    add(session, study, *(PromptRow(text=text, use_case=case) for text, case in tagged))
    add(session, study, PromptRow(text="Summarize this text about whales."))
    last = session.scalars(select(Prompt).order_by(Prompt.id.desc()).limit(1)).one()
    assert last.use_case is None
    assert last.suggested_use_case is UseCase.summarization
