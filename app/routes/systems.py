"""A study's external systems: adding one, trying it, sampling it, and how far that is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import FormData

from app.db import DbSession
from app.errors import DomainError, Invalid
from app.models import Split, Study
from app.render import page
from app.routes.deps import CurrentUser, ResearcherStudy
from app.services.external import keys, samplings, systems
from app.services.external.samplings import NothingToSample
from app.services.external.settings import LABELS, TRANSPORT, SystemSettings, system_settings

router = APIRouter(prefix="/studies/{slug}/systems")

TRY_SECONDS = 30.0  # the most that a page waits for an answer
TRIED = "Explain the moon landing to a six year old in a few sentences."
FIELDS = tuple(LABELS)
DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(FIELDS, ""),
    **{name: field.default for name, field in SystemSettings.model_fields.items() if name != "stop"}
    | {"base_url": "http://127.0.0.1:8001/v1", "model": "", "api": "chat", "stop": ""},
    "name": "",
    "try_prompt": TRIED,
}
CHOICE: dict[str, Any] = {"batch": "", "splits": ["test"], "count": "", "completions": "1"}


async def posted(request: Request) -> AsyncIterator[FormData]:
    async with request.form() as form:
        yield form


Posted = Annotated[FormData, Depends(posted)]
PolicyId = Annotated[int, Path(ge=1, lt=2**63)]
SamplingId = Annotated[int, Path(ge=1, lt=2**63)]


@router.get("")
def list_systems(request: Request, session: DbSession, study: ResearcherStudy) -> Response:
    context = {"study": study, "systems": systems.systems_of(session, study)}
    return page(request, "data/systems.html", context)


@router.get("/new")
def new_system(request: Request, study: ResearcherStudy) -> Response:
    return _form(request, study, DEFAULTS)


@router.post("/new")
def create_system(
    request: Request, session: DbSession, study: ResearcherStudy, user: CurrentUser, form: Posted
) -> Response:
    """Try it or add it; the form comes back as it was filled in, with the answer or what is wrong.

    A try is not stored. No database connection is held while the endpoint answers.
    """
    values = _values(form)
    try:
        settings = system_settings(_settings(values))
        if form.get("action") == "try":
            session.rollback()
            return _form(request, study, values, tried=_try(settings, values["try_prompt"]))
        system = systems.add_system(session, study, values["name"], settings, created_by=user)
    except DomainError as error:
        session.rollback()
        return _form(request, study, values, error=error)
    return RedirectResponse(_address(study, system.policy_id), status_code=303)


@router.get("/{policy_id}")
def show_system(
    request: Request, session: DbSession, study: ResearcherStudy, policy_id: PolicyId
) -> Response:
    return _show(request, session, study, policy_id, CHOICE)


@router.get("/{policy_id}/edit")
def edit_system(
    request: Request, session: DbSession, study: ResearcherStudy, policy_id: PolicyId
) -> Response:
    system = systems.find_system(session, study, policy_id)
    values = _typed(systems.settings_of(system)) | {"name": system.policy.name}
    sampled = systems.is_sampled(session, system)
    return _form(request, study, values, policy_id=policy_id, sampled=sampled)


@router.post("/{policy_id}/edit")
def update_system(
    request: Request, session: DbSession, study: ResearcherStudy, policy_id: PolicyId, form: Posted
) -> Response:
    """As adding one; of a system that was sampled only what TRANSPORT names is taken."""
    system = systems.find_system(session, study, policy_id)
    sampled = systems.is_sampled(session, system)
    stored = _typed(systems.settings_of(system))
    values = _values(form) | {"name": system.policy.name}
    if sampled:
        values |= {name: stored[name] for name in FIELDS if name not in TRANSPORT}
    show = partial(_form, request, study, values, policy_id=policy_id, sampled=sampled)
    try:
        settings = system_settings(_settings(values))
        if form.get("action") == "try":
            session.rollback()
            return show(tried=_try(settings, values["try_prompt"]))
        systems.update_system(session, system, settings)
    except DomainError as error:
        session.rollback()
        return show(error=error)
    return RedirectResponse(_address(study, policy_id), status_code=303)


@router.post("/{policy_id}/remove")
def remove_system(session: DbSession, study: ResearcherStudy, policy_id: PolicyId) -> Response:
    systems.remove_system(session, systems.find_system(session, study, policy_id))
    return RedirectResponse(f"/studies/{study.slug}/systems", status_code=303)


@router.post("/{policy_id}/sample")
def start_sampling(
    request: Request,
    session: DbSession,
    study: ResearcherStudy,
    user: CurrentUser,
    policy_id: PolicyId,
    form: Posted,
) -> Response:
    """Ask for completions; the form comes back as it was filled in when that cannot be."""
    system = systems.find_system(session, study, policy_id)
    values = {
        **{name: str(form.get(name, "")).strip() for name in ("batch", "count", "completions")},
        "splits": [split for split in form.getlist("splits") if split in set(Split)],
    }
    try:
        choice = samplings.read_choice(values)
        samplings.start_sampling(session, study, system, choice, created_by=user)
    except DomainError as error:
        session.rollback()
        return _show(request, session, study, policy_id, values, error)
    return RedirectResponse(_address(study, policy_id), status_code=303)


@router.post("/{policy_id}/samplings/{sampling_id}/cancel")
def cancel_sampling(
    session: DbSession, study: ResearcherStudy, policy_id: PolicyId, sampling_id: SamplingId
) -> Response:
    samplings.cancel(session, samplings.find_sampling(session, study, sampling_id))
    return RedirectResponse(_address(study, policy_id), status_code=303)


@router.post("/{policy_id}/samplings/{sampling_id}/retry")
def retry_sampling(
    session: DbSession, study: ResearcherStudy, policy_id: PolicyId, sampling_id: SamplingId
) -> Response:
    samplings.retry(session, samplings.find_sampling(session, study, sampling_id))
    return RedirectResponse(_address(study, policy_id), status_code=303)


def _address(study: Study, policy_id: int) -> str:
    return f"/studies/{study.slug}/systems/{policy_id}"


def _values(form: FormData) -> dict[str, Any]:
    """The form's fields as they were typed, so that they can be shown again."""
    names = (*FIELDS, "name", "try_prompt")
    return {name: str(form.get(name, "")).replace("\r\n", "\n") for name in names}


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as settings are read: stops one a line, where \\n stands for a line break."""
    stops = [line.replace("\\n", "\n") for line in values["stop"].split("\n") if line]
    return {name: values[name] for name in FIELDS} | {"stop": stops}


def _typed(settings: SystemSettings) -> dict[str, Any]:
    """Settings as they are typed into the form."""
    values = settings.model_dump(mode="json")
    stops = "\n".join(stop.replace("\n", "\\n") for stop in settings.stop)
    typed = {name: "" if value is None else value for name, value in values.items()}
    return typed | {"stop": stops, "try_prompt": TRIED}


def _try(settings: SystemSettings, prompt: str) -> Mapping[str, Any]:
    """The answer to one prompt, or why there is none."""
    from app.services.external import endpoint  # httpx is loaded by the first try

    if not prompt.strip():
        raise Invalid("Write a prompt to try it with.")
    if len(prompt) > 32_000:
        raise Invalid("A prompt to try it with has at most 32,000 characters.")
    seconds = min(TRY_SECONDS, settings.timeout_seconds)
    try:
        answer = endpoint.try_prompt(settings, prompt, seconds=seconds)
    except endpoint.EndpointProblem as problem:
        return {"answer": None, "problem": str(problem)}
    return {"answer": answer, "problem": None}


def _form(
    request: Request,
    study: Study,
    values: Mapping[str, Any],
    *,
    policy_id: int | None = None,
    sampled: bool = False,
    tried: Mapping[str, Any] | None = None,
    error: DomainError | None = None,
) -> Response:
    context = {
        "study": study,
        "values": values,
        "policy_id": policy_id,
        "sampled": sampled,
        "labels": LABELS,
        "transport": TRANSPORT,
        "tried": tried,
        "error": error.message if error else None,
    }
    status = error.status if error else 200
    return page(request, "data/system_form.html", context, status=status)


def _show(
    request: Request,
    session: DbSession,
    study: Study,
    policy_id: int,
    values: Mapping[str, Any],
    error: DomainError | None = None,
) -> Response:
    system = systems.find_system(session, study, policy_id)
    settings = systems.settings_of(system)
    typed = _typed(settings)
    try:
        keys.key_for(settings.key_variable, settings.base_url)
        key_problem = None
    except keys.KeyProblem as problem:
        key_problem = str(problem)
    views = samplings.samplings_of(session, policy_id)
    context = {
        "study": study,
        "policy": system.policy,
        "settings": settings,
        "facts": [(label, typed[name]) for name, label in LABELS.items()],
        "key_problem": key_problem,
        "coverage": systems.coverage_of(session, system),
        "newest": systems.newest_completions(session, system),
        "samplings": views,
        "under_way": any(view.under_way for view in views),
        "batches": samplings.batches_to_choose(session, study),
        "splits": [split.value for split in Split],
        "values": values,
        "error": error.message if error and not isinstance(error, NothingToSample) else None,
        "nothing": error.message if isinstance(error, NothingToSample) else None,
    }
    status = error.status if error else 200
    return page(request, "data/system.html", context, status=status, fragment="live")
