"""Liveness, for the supervisor and load balancers."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from sqlalchemy import text

from app.db import DbSession

router = APIRouter()


@router.get("/healthz")
def healthz(session: DbSession) -> PlainTextResponse:
    """200 once the web process answers and reaches its database."""
    session.execute(text("SELECT 1"))
    return PlainTextResponse("ok\n")
