"""Thin endpoints: parse, call one service, render."""

from __future__ import annotations

from fastapi import APIRouter


def first_routers() -> list[APIRouter]:
    """Signing in, and the labeler's pages: with these the web process starts."""
    from app.routes import auth, health, label, label_history

    return [health.router, auth.router, label.router, label_history.router]


def later_routers() -> list[APIRouter]:
    """The pages of researchers, below LATER in app.main: loaded when the process answers."""
    from app.routes import (
        access,
        batches,
        exports,
        flags,
        guidelines,
        imports,
        members,
        pii,
        policies,
        preparation,
        prompts,
        rounds,
        runs,
        studies,
        systems,
        withdrawals,
    )

    return [
        studies.router,  # before the routers whose addresses begin with a study's slug
        prompts.router,
        pii.router,
        preparation.router,
        imports.router,
        systems.router,
        policies.router,
        exports.router,
        access.router,
        access.docs,
        members.router,
        batches.router,
        flags.router,
        guidelines.router,
        rounds.router,
        runs.router,
        withdrawals.router,
    ]
