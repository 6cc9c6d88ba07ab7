"""One run: progress, figures, charts, log; cancel and retry."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from app.db import DbSession
from app.models import Round, Study
from app.render import page
from app.routes.deps import ResearcherStudy
from app.services import run_views, runs

router = APIRouter(prefix="/studies/{slug}/runs/{run_id}")


def _address(study: Study, run_id: int) -> str:
    return f"/studies/{study.slug}/runs/{run_id}"


@router.get("")
def show_run(request: Request, session: DbSession, study: ResearcherStudy, run_id: int) -> Response:
    """The live page of a run: it asks for its upper part again while the run goes on."""
    run = runs.get_run(session, study, run_id)
    context = {
        "study": study,
        "run": run,
        "round": session.get(Round, run.round_id) if run.round_id is not None else None,
        "progress": run_views.progress(session, run),
        "figures": run_views.figures(run),
        "folds": run_views.crossvalidation(run),
        "log": run_views.log_tail(run),
        "checkpoint": runs.checkpoint_of(session, run),
    }
    return page(request, "runs/run.html", context, fragment="live")


@router.get("/metrics.json")
def metrics(session: DbSession, study: ResearcherStudy, run_id: int) -> Response:
    """Every metric of the run by phase, for charts."""
    run = runs.get_run(session, study, run_id)
    return JSONResponse({"over": run.state.final, "phases": run_views.series(session, run)})


@router.post("/cancel")
def cancel(session: DbSession, study: ResearcherStudy, run_id: int) -> Response:
    runs.request_cancel(session, runs.get_run(session, study, run_id))
    return RedirectResponse(_address(study, run_id), status_code=303)


@router.post("/retry")
def retry(session: DbSession, study: ResearcherStudy, run_id: int) -> Response:
    runs.retry(session, runs.get_run(session, study, run_id))
    return RedirectResponse(_address(study, run_id), status_code=303)
