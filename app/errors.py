"""Domain errors carry their HTTP status; one handler turns them into a page, a fragment or JSON."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException

from app.logs import get_logger
from app.render import is_fragment, page

TITLES = {
    400: "That did not work",
    403: "Not for this account",
    404: "Not found",
    405: "Not possible here",
    409: "Something changed in the meantime",
    410: "No longer here",
    413: "Too large",
    422: "Please check the form",
    500: "Something broke on our side",
}


class DomainError(Exception):
    """An expected refusal, in words for the person who caused it. `status` is its HTTP status."""

    status = 400

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class NotFound(DomainError):
    status = 404


class Forbidden(DomainError):
    status = 403


class Conflict(DomainError):
    status = 409


class Invalid(DomainError):
    """Input that cannot be taken as it is."""

    status = 422


class SignInRequired(DomainError):
    """Nobody is signed in, or the session has expired."""

    status = 401


def wants_json(request: Request) -> bool:
    """Whether a script asked, which reads answers instead of showing them."""
    return request.url.path.startswith("/api/") or request.headers.get("accept", "").startswith(
        "application/json"
    )


def _respond(request: Request, status: int, message: str) -> Response:
    title = TITLES.get(status, TITLES[400])
    if wants_json(request):
        return JSONResponse({"error": title, "detail": message}, status_code=status)
    return page(request, "error.html", {"title": title, "message": message}, status=status)


def _validation_message(error: RequestValidationError) -> str:
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc'][1:]) or 'request'}: {item['msg']}"
        for item in error.errors()
    )


def install_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(SignInRequired)
    def _sign_in(request: Request, error: SignInRequired) -> Response:
        if wants_json(request):
            return JSONResponse({"error": "Sign in", "detail": error.message}, status_code=401)
        target = "/login" if request.method != "GET" else f"/login?next={request.url.path}"
        if is_fragment(request):
            return Response(status_code=401, headers={"HX-Redirect": target})
        return RedirectResponse(target, status_code=303)

    @app.exception_handler(DomainError)
    def _domain(request: Request, error: DomainError) -> Response:
        return _respond(request, error.status, error.message)

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> Response:
        message = {
            404: "There is no page at this address.",
            405: "This address does not take that kind of request.",
        }.get(error.status_code, str(error.detail))
        return _respond(request, error.status_code, message)

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> Response:
        return _respond(request, 422, _validation_message(error))

    @app.exception_handler(DataError)
    def _unstorable(request: Request, error: DataError) -> Response:
        # Wherever it was typed: in an address, a form, a document.
        get_logger().warning("unstorable", path=request.url.path, reason=str(error.orig))
        message = "A text with a NUL character, or a number that is too large, cannot be taken."
        return _respond(request, 422, message)

    @app.exception_handler(500)
    def _broken(request: Request, error: Exception) -> Response:
        get_logger().error("unhandled error", path=request.url.path, exc_info=error)
        return _respond(request, 500, "It is in the log. What you typed was not lost: go back.")
