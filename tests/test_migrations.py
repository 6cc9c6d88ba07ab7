"""The migrations make what the models say, and the newest ones go down and up again."""

from __future__ import annotations

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.db import Base
from app.migrate import MIGRATIONS
from app.models import (
    Checkpoint,
    CheckpointKind,
    Completion,
    LabelTaskCompletion,
    Round,
    RunKindName,
)
from app.services import runs
from app.services.batches import ranking_batch_from_policies
from tests import factories as make


def differences(engine: Engine) -> list[object]:
    with engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))


def alembic(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


def test_the_migrations_make_what_the_models_say(fresh_database: str, fresh_engine: Engine) -> None:
    assert differences(fresh_engine) == []
    with Session(fresh_engine) as session:
        study = make.make_study(session)
        prompt = make.make_prompt(session, study)
        completions = make.make_completions(session, prompt, 3)
        make.make_demonstration_batch(session, study, [prompt])
        make.give_label(session, make.make_labeler(session, study), {"text": "Mine."})
        ranking_batch_from_policies(
            session,
            study,
            [make.make_policy(session, study, f"policy-{i}") for i in range(3)],
            name="x",
            include_demonstrations=True,
        )
        session.commit()
        assert len(completions) == 3

    config = alembic(fresh_database)
    command.downgrade(config, "0002")
    assert differences(fresh_engine) != []
    command.upgrade(config, "head")
    assert differences(fresh_engine) == []
    with Session(fresh_engine) as session:
        assert len(session.scalars(select(LabelTaskCompletion.completion_id)).all()) == 4
        texts = session.scalars(select(Completion.text).order_by(Completion.id)).all()
        assert texts[-1] == "Mine."


def test_rounds_that_began_before_say_what_ppo_started_from(
    fresh_database: str, fresh_engine: Engine
) -> None:
    with Session(fresh_engine) as session:
        study = make.make_study(session)
        sft = Checkpoint(study_id=study.id, kind=CheckpointKind.policy, label="sft", uri="file:///")
        trained, begun = (
            Round(study_id=of.id, number=1, stage="ppo", seed=0, config={"a": 1}, reused={"b": {}})
            for of in (study, make.make_study(session, "Another study"))
        )
        session.add_all([sft, trained, begun])
        session.flush()
        runs.create_run(
            session,
            study,
            kind=RunKindName.ppo,
            stage="ppo",
            seed=0,
            preset="paper",
            inputs={"init": sft, "reference": sft},
            round_id=trained.id,
        )
        session.commit()
        command.downgrade(alembic(fresh_database), "0010")
        command.upgrade(alembic(fresh_database), "head")
        session.expire_all()
        assert trained.config == begun.config == {"a": 1, "rl_init": False}
        assert trained.reused == {"b": {}, "rl-init": {"checkpoint": sft.id}}
        assert begun.reused == {"b": {}}
        session.rollback()
        command.downgrade(alembic(fresh_database), "0010")
        session.expire_all()
        assert (trained.config, trained.reused) == ({"a": 1}, {"b": {}})
