"""Thin endpoints: parse, call one service, render."""

from fastapi import APIRouter

from app.routes import (
    access,
    auth,
    batches,
    exports,
    flags,
    guidelines,
    health,
    imports,
    label,
    label_history,
    members,
    pii,
    preparation,
    prompts,
    rounds,
    runs,
    studies,
    systems,
    withdrawals,
)

routers: list[APIRouter] = [
    health.router,
    auth.router,
    label.router,
    label_history.router,
    studies.router,  # before the routers whose addresses begin with a study's slug
    prompts.router,
    pii.router,
    preparation.router,
    imports.router,
    systems.router,
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
