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
from app.models import Completion, LabelTaskCompletion
from app.services.batches import ranking_batch_from_policies
from tests import factories as make


def differences(engine: Engine) -> list[object]:
    with engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))


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

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("sqlalchemy.url", fresh_database.replace("%", "%%"))
    command.downgrade(config, "0002")
    assert differences(fresh_engine) != []
    command.upgrade(config, "head")
    assert differences(fresh_engine) == []
    with Session(fresh_engine) as session:
        assert len(session.scalars(select(LabelTaskCompletion.completion_id)).all()) == 4
        texts = session.scalars(select(Completion.text).order_by(Completion.id)).all()
        assert texts[-1] == "Mine."
