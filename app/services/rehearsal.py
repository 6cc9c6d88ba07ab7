"""Rehearsals: simulated labelers' accounts, and the demo study with its prompts."""

from __future__ import annotations

import secrets

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import Conflict, Invalid
from app.models import Role, Split, Study, UseCase, User
from app.services import people, studies
from app.services.prompts import PromptRow, add_prompts
from app.simulation.accounts import Account
from app.simulation.family import generate_prompts

DEMO_PROMPTS = 2400
DEMO_USERS = 400
# More test users than a study of real prompts has: 400 judged prompts make a narrow interval.
DEMO_SHARES = {Split.train: 0.65, Split.valid: 0.1, Split.test: 0.25}


def simulated_accounts(
    session: Session, study: Study, *, labelers: int, role: Role, seed: int = 0
) -> list[Account]:
    """Accounts of `labelers` simulated labelers of the study, made where missing.

    Each gets a new password: whoever calls is about to sign in with it. Raises Invalid where the
    study is not a rehearsal.
    """
    if not study.rehearsal:
        raise Invalid(f"{study.name} is not a rehearsal: simulated labelers may not label there.")
    word = "heldout" if role is Role.heldout_labeler else "labeler"
    made = []
    for number in range(1, labelers + 1):
        username, password = f"sim-{word}-{number}", secrets.token_urlsafe(16)
        user = session.scalar(select(User).where(func.lower(User.username) == username))
        if user is None:
            user = people.create_user(
                session,
                username=username,
                password=password,
                display_name=f"Simulated {word} {number}",
                simulated=True,
            )
        elif not user.simulated:
            raise Conflict(f"The user name {username} belongs to a person.")
        else:
            people.set_password(session, user, password)
        people.add_member(session, study, user, role)
        # Nobody judges like anybody else: neither in the other pool, nor under another seed.
        identity = seed * 1000 + number + (500 if role is Role.heldout_labeler else 0)
        made.append(Account(username, password, identity))
    return made


def create_demo_study(session: Session, *, slug: str, seed: int, created_by: User) -> Study:
    """A rehearsal with the prompts of the demo family. The same seed gives the same splits."""
    study = studies.create_study(
        session,
        name="Demo" if seed == 0 else f"Demo, seed {seed}",
        slug=slug,
        rehearsal=True,
        description="Prompts written for the starter base model, labeled by simulated labelers.",
        created_by=created_by,
    )
    study.split_key = f"demo {seed}"
    session.flush()
    add_prompts(
        session,
        study,
        [
            PromptRow(
                text=prompt.text,
                user=prompt.source_user,
                use_case=UseCase(prompt.use_case),
                closed_domain=prompt.closed_domain,
                constraint_text=prompt.constraint,
            )
            for prompt in generate_prompts(seed, DEMO_PROMPTS, DEMO_USERS)
        ],
        shares=DEMO_SHARES,
    )
    return study
