"""The web server's process: `python -m app.web`, or `plumbline web`."""

from __future__ import annotations

import gc

from app.config import get_settings


def serve(port: int | None = None) -> None:
    """Serve where the settings say, or on `port`, until SIGTERM."""
    # All that is imported stays. To look for garbage in it while it grows takes a tenth of the
    # start; frozen, no later collection looks there again.
    gc.disable()
    import uvicorn

    from app.main import create_app

    app = create_app()
    gc.freeze()
    gc.enable()
    settings = get_settings()
    uvicorn.run(
        app,
        host=settings.host,
        port=port or settings.port,
        loop="asyncio",
        ws="none",
        access_log=False,
        timeout_keep_alive=65,
        timeout_graceful_shutdown=3,  # live pages hold their connection open: do not wait for them
    )


if __name__ == "__main__":
    serve()
