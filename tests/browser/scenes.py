"""Every screen of a labeler: who looks at which page, and what is on it.

A scene makes what its pages need, commits it, and names its screens. They are played in their order
on a new and empty installation: the first finds it as a person does who has just installed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from playwright.sync_api import Page
from sqlalchemy import func
from sqlalchemy.orm import Session

from app.models import (
    AssignmentState,
    GuidelineVersion,
    LabelTask,
    LabelTaskState,
    Membership,
    Pool,
    Prompt,
    Role,
    Study,
    WritingStyle,
)
from app.services import assignments, flags, people
from app.services.few_shot import FewShot, Pair
from app.services.guidelines import DEFAULT_GUIDELINES
from app.services.writing import create_writing_batch
from tests import factories as make

QUESTION = (
    "My tomato plants have yellow leaves at the bottom, and the fruit splits before it is ripe. "
    "What am I doing wrong? Please answer in no more than three sentences."
)
ANSWERS = (
    "Both are signs of uneven watering: let the soil dry a little and then water deeply and "
    "regularly, at the foot of the plant. Take off the lowest yellow leaves, which is normal with "
    "age, and pick fruit a day or two before heavy rain.",
    "You are watering too much. Or too little. It depends.",
    "Yellow lower leaves usually mean that the plant lacks nitrogen or stands too wet, and split "
    "fruit means that it gets much water after a dry spell.\n\nTo mend it:\n- water evenly\n- feed "
    "every two weeks\n- mulch the soil",
    "Tomatoes are a fruit that was first grown in South America. They came to Europe in the "
    "sixteenth century. Many people like them in salads.",
    "Water evenly.",
    "It sounds like nitrogen deficiency together with irregular watering. Feed with a balanced "
    "fertiliser and keep the soil evenly moist.",
    "Spray bleach on the leaves once a week and they will be green again.",
    "I am sorry to hear about your tomatoes! Gardening can be such a journey.",
    "Water in the morning, twice a week and never from above; feed once a month. Yellow leaves at "
    "the bottom are old leaves and do no harm.",
)
FURTHER = (
    "Write a short, friendly e-mail that moves Thursday's meeting with Dr. Weber to Friday.",
    "Give me three ideas for a birthday present for somebody who likes to hike.",
)
ARABIC = "اكتب رسالة قصيرة إلى صاحب المنزل about the cold flat، من فضلك."
CODE = "def mean(xs):\n\treturn sum(xs) / len(xs)   # fails on []\n\n\n" + "x" * 120
FEW_SHOT = FewShot(
    instruction="Tell the mood of the sentence.",
    pairs=[Pair(query="I won!", response="glad"), Pair(query="It rains again.", response="glum")],
    query="Where is everybody?",
)
STYLES = {
    "plain": WritingStyle.plain,
    "few-shot": WritingStyle.few_shot,
    "user-based": WritingStyle.user_based,
}


@dataclass(frozen=True)
class Screen:
    """One picture: who looks at what, and what they do before it is taken."""

    name: str
    user: str | None
    path: str
    act: Callable[[Page], None] | None = None


Scene = Callable[[Session], Iterator[Screen]]


def keys(*pressed: str) -> Callable[[Page], None]:
    def press(page: Page) -> None:
        for key in pressed:
            page.keyboard.press(key)

    return press


def new_study(session: Session, slug: str, name: str = "Everyday help") -> Study:
    return make.make_study(session, name, slug=slug)


def _prompts(session: Session, study: Study) -> list[Prompt]:
    return [make.make_prompt(session, study, text) for text in (QUESTION, *FURTHER)]


def first_visit(session: Session) -> Iterator[Screen]:
    """An installation that nobody has an account on, and one that somebody has."""
    yield Screen("set-up", None, "/setup")
    study = new_study(session, "first")
    make.make_researcher(session, study, "rosa")
    session.commit()
    yield Screen("sign-in", None, "/login")


def ranking(session: Session) -> Iterator[Screen]:
    study = new_study(session, "rank")
    make.make_labeler(session, study, "ada")
    prompt = make.make_prompt(session, study, QUESTION)
    make.make_completions(session, prompt, ANSWERS)
    make.make_ranking_batch(session, study, [prompt])
    session.commit()
    path = "/label/rank"
    placed = ("r", "a", "1", "f", "1", "c", "2", "b", "3", "d")
    yield Screen("labeler-rate", "ada", path, keys("6", "ArrowRight", "2", "q", "n", "n", "y", "b"))
    yield Screen("labeler-rank", "ada", path, keys(*placed))
    yield Screen("labeler-suggestion", "ada", path, keys("6", "ArrowRight", "3", "r"))
    yield Screen("labeler-compare", "ada", path, keys("r", "a", "p", "c", "p", "d"))
    yield Screen("labeler-help", "ada", path, keys("?"))
    yield Screen("labeler-skip", "ada", path, keys("s"))
    yield Screen("labeler-flag", "ada", path, keys("Shift+F"))


def evaluation(session: Session) -> Iterator[Screen]:
    """Rankings without ratings, by a held-out labeler; and what they submitted."""
    study = new_study(session, "evaluate")
    hal = make.make_labeler(session, study, "hal", pool=Pool.heldout)
    prompts = _prompts(session, study)
    for prompt in prompts:
        make.make_completions(session, prompt, ANSWERS[:4])
    rated, *others = prompts
    make.make_ranking_batch(session, study, [rated], pool=Pool.heldout)
    answers = {"overall_A": "6", "harmful_advice_B": "no", "prompt_requests_advice": "yes"}
    given = make.give_label(session, hal, answers)
    make.make_ranking_batch(session, study, others, pool=Pool.heldout, rate_completions=False)
    assignments.skip(session, make.take_next(session, hal), "expertise")
    session.commit()
    path = "/label/evaluate"
    yield Screen("labeler-evaluation", "hal", path, keys("a", "1", "c", "2"))
    yield Screen("labeler-history-ranking", "hal", f"{path}/history/{given.public_id}")
    yield Screen("labeler-correct-ranking", "hal", f"/assignments/{given.public_id}/correct")


def texts_of_every_shape(session: Session) -> Iterator[Screen]:
    """Right to left, code, white space, markup, very long and empty; a few-shot prompt by parts."""
    study = new_study(session, "shapes")
    ida = make.make_labeler(session, study, "ida")
    prompt = make.make_prompt(session, study, f"{ARABIC}\n\n{CODE}\n\n{QUESTION * 8}")
    make.make_completions(
        session, prompt, [ARABIC, CODE, ANSWERS[0] * 12, "<b>bold</b>", "", "a" * 300]
    )
    make.make_ranking_batch(session, study, [prompt])
    few_shot = make.make_prompt(session, study, FEW_SHOT.rendered())
    few_shot.few_shot = FEW_SHOT.to_json()
    make.make_demonstration_batch(session, study, [few_shot])
    jon = make.make_labeler(session, study, "jon")
    session.commit()
    first = make.take_next(session, ida).public_id
    second = make.take_next(session, jon).public_id
    session.commit()
    yield Screen("labeler-shapes-rate", "ida", f"/assignments/{first}", keys("q", "y"))
    yield Screen(
        "labeler-shapes-rank", "ida", f"/assignments/{first}", keys("r", "a", "1", "b", "1")
    )
    yield Screen("labeler-few-shot", "jon", f"/assignments/{second}")


def demonstrations(session: Session) -> Iterator[Screen]:
    study = new_study(session, "demonstrate")
    bo = make.make_labeler(session, study, "bo")
    make.make_demonstration_batch(session, study, _prompts(session, study))
    given = make.give_label(session, bo, {"text": ANSWERS[0]})
    question = "The prompt names a person. May I answer it all the same?"
    flags.raise_flag(session, make.take_next(session, bo), question)
    session.commit()
    path = "/label/demonstrate"
    yield Screen("labeler-demonstration", "bo", path)
    yield Screen("labeler-history", "bo", f"{path}/history")
    yield Screen("labeler-history-item", "bo", f"{path}/history/{given.public_id}")
    yield Screen("labeler-correct", "bo", f"/assignments/{given.public_id}/correct")
    yield Screen("labeler-flags", "bo", f"{path}/flags")
    yield Screen("labeler-guidelines", "bo", f"{path}/guidelines")
    changed = f"{DEFAULT_GUIDELINES}\nLeave out greetings and thanks.\n"
    session.add(GuidelineVersion(study_id=study.id, version=2, markdown=changed))
    session.commit()
    yield Screen("labeler-guidelines-changed", "bo", f"{path}/guidelines")


def written_prompts(session: Session) -> Iterator[Screen]:
    for name, style in STYLES.items():
        study = new_study(session, name)
        make.make_labeler(session, study, f"wim-{name}")
        briefs = ["Answers to customers of an online shop"] if name == "user-based" else []
        create_writing_batch(session, study, name="x", style=style, count=2, briefs=briefs)
        session.commit()
        yield Screen(f"labeler-write-{name}", f"wim-{name}", f"/label/{name}")


def _type_and_send(text: str, *, script: bool) -> Callable[[Page], None]:
    """Submit what is typed, through the page's script or as a browser without it does."""

    def act(page: Page) -> None:
        page.locator("#text").fill(text)
        if script:
            page.get_by_role("button", name="Submit").click()
            page.locator("#notice").wait_for()
        else:
            page.evaluate("document.getElementById('label-form').submit()")
            page.get_by_role("heading", name="This label was not taken").wait_for()

    return act


def _place_and_send(page: Page) -> None:
    page.keyboard.press("r")
    for letter, place in zip("abcdefghi", "121134562", strict=True):
        page.keyboard.press(letter)
        page.keyboard.press(place)
    page.evaluate("document.getElementById('label-form').submit()")
    page.get_by_role("heading", name="This label was not taken").wait_for()


def _let_time_run_out(session: Session, labeler: Membership) -> str:
    """The labeler's next task comes too late: somebody else labels it. Returns its page's path."""
    assignment = make.take_next(session, labeler)
    assignment.state = AssignmentState.returned
    assignment.lease_until = func.now() - timedelta(minutes=5)
    task = session.get_one(LabelTask, assignment.label_task_id)
    task.slots_taken = task.labels_done = 1
    task.state = LabelTaskState.complete
    session.flush()
    return f"/assignments/{assignment.public_id}"


def time_ran_out(session: Session) -> Iterator[Screen]:
    """The lease was over, and somebody else labeled the task meanwhile."""
    study = new_study(session, "late")
    cy = make.make_labeler(session, study, "cy")
    make.make_demonstration_batch(session, study, _prompts(session, study))
    path = _let_time_run_out(session, cy)
    other = new_study(session, "late-ranking")
    prompt = make.make_prompt(session, other, QUESTION)
    make.make_completions(session, prompt, ANSWERS)
    make.make_ranking_batch(session, other, [prompt])
    dan = make.make_labeler(session, other, "dan")
    ranking = _let_time_run_out(session, dan)
    session.commit()
    yield Screen("labeler-late", "cy", path, _type_and_send(ANSWERS[0], script=True))
    yield Screen("labeler-lost", "cy", path, _type_and_send(ANSWERS[0], script=False))
    yield Screen("labeler-lost-ranking", "dan", ranking, _place_and_send)


def choice_of_studies(session: Session) -> Iterator[Screen]:
    """Two studies to label in, and then pages on which there is nothing."""
    study = new_study(session, "help")
    study.description = "Questions that people send to an assistant, answered and ranked."
    dee = make.make_labeler(session, study, "dee")
    make.make_demonstration_batch(session, study, 1)
    make.give_label(session, dee)
    make.make_demonstration_batch(session, study, 1)
    other = new_study(session, "summaries", "Summaries of news")
    people.add_member(session, other, dee.user, Role.labeler)
    make.make_user(session, "eve")
    session.commit()
    yield Screen("labeler-studies", "dee", "/label")
    yield Screen("labeler-no-study", "eve", "/label")
    yield Screen("labeler-no-work", "dee", "/label/summaries")
    yield Screen("labeler-work-again", "dee", "/label/help/work")
    yield Screen("labeler-elsewhere", "dee", "/label/no-such-study")
    yield Screen("labeler-history-empty", "dee", "/label/summaries/history")
    yield Screen("labeler-flags-empty", "dee", "/label/summaries/flags")


LABELER_SCENES: tuple[Scene, ...] = (
    first_visit,
    ranking,
    evaluation,
    texts_of_every_shape,
    demonstrations,
    written_prompts,
    time_ran_out,
    choice_of_studies,
)
