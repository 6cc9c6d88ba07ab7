"""The web application: middleware, routers, error handlers, static files, the API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.db import CONNECTIONS
from app.errors import install_error_handlers
from app.render import STATIC
from app.routes import first_routers, later_routers

LATER = ("/studies", "/api")  # what is below these is loaded later
LATER_SECONDS = 1.0  # after the start, if nobody asks for it before

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'self'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


class TurnMiddleware:
    """Let in as many requests at a time as there are database connections; the others queue.

    A request keeps its connection between its steps, and every step needs a thread. Were more let
    in, those that wait for a connection could hold all threads, and those that have one would wait
    for a thread: nobody would go on until the waiting gives up.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._turns = asyncio.Semaphore(CONNECTIONS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/static/"):
            await self.app(scope, receive, send)
            return
        async with self._turns:
            await self.app(scope, receive, send)


class SecurityMiddleware:
    """Security headers on every response, and no unsafe request from another site.

    A browser says where a request comes from (`Sec-Fetch-Site`, or `Origin` in old ones); a request
    that says another site and is not a plain read is refused. Programs that are no browsers send
    neither header and carry no ambient cookies, so they pass. With the cookie's SameSite=Lax this
    takes the place of a token in each form.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if not scope["path"].startswith("/static/"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        if self._cross_site(Request(scope)):
            response = PlainTextResponse(
                "This request came from another site and was not carried out.", status_code=403
            )
            await response(scope, receive, send_with_headers)
            return
        await self.app(scope, receive, send_with_headers)

    @staticmethod
    def _cross_site(request: Request) -> bool:
        if request.method in {"GET", "HEAD", "OPTIONS"}:
            return False
        site = request.headers.get("sec-fetch-site")
        if site is not None:
            return site not in {"same-origin", "none"}
        origin = request.headers.get("origin")
        return origin is not None and origin.partition("://")[2] != request.headers.get("host")


class VersionedStaticFiles(StaticFiles):
    """Static files whose addresses carry a version: browsers may keep them for a year."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        versioned = b"v=" in scope.get("query_string", b"")

        async def send_with_cache(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                MutableHeaders(scope=message)["Cache-Control"] = (
                    "public, max-age=31536000, immutable" if versioned else "no-cache"
                )
            await send(message)

        await super().__call__(scope, receive, send_with_cache)


class LaterMiddleware:
    """Loads the pages of researchers and the API when the process answers, not before.

    They are most of the code. Whoever opens the sign-in page or labels does not wait for them; a
    request for them that comes first does.
    """

    def __init__(self, app: ASGIApp, load: Callable[[], None]) -> None:
        self.app = app
        self._load = load
        self._loading: asyncio.Future[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            asyncio.get_running_loop().call_later(LATER_SECONDS, self._loaded)
        elif scope["path"].startswith(LATER):
            await asyncio.shield(self._loaded())
        await self.app(scope, receive, send)

    def _loaded(self) -> asyncio.Future[None]:
        if self._loading is None:
            self._loading = asyncio.ensure_future(run_in_threadpool(self._load))
        return self._loading


def create_app() -> FastAPI:
    """The application. Reads the settings once; opens no connection before the first request."""
    app = FastAPI(title="Plumbline", docs_url=None, redoc_url=None, openapi_url=None)

    def load() -> None:
        from app.routes import api

        app.mount(api.PREFIX, api.create_api())
        for router in later_routers():
            app.include_router(router)

    app.add_middleware(LaterMiddleware, load=load)
    app.add_middleware(TurnMiddleware)
    app.add_middleware(SecurityMiddleware)  # the outer one
    install_error_handlers(app)
    app.mount("/static", VersionedStaticFiles(directory=STATIC), name="static")
    for router in first_routers():
        app.include_router(router)
    return app
