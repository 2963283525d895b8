"""The ASGI application: `cvmstop api` serves it.

`uvicorn --factory api.main:create_app` does too, but with no bound on slow clients (`api.server`).
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from api.errors import add_error_handlers
from api.middleware import BodyLimit, HeadCheck, RequestContext
from api.openapi import describe
from api.pages.site import add_pages
from api.parts import make_api_parts
from api.routes import (
    batch_events,
    batch_stop,
    batches,
    cvms,
    health,
    metrics,
    operations,
    stop_tasks,
    webhooks,
)
from shared import __version__
from shared.schema import require_current_schema
from shared.settings import ApiSettings
from shared.telemetry import configure_logging


if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TAGS = [
    {
        "name": "CVMs",
        "description": "Confidential Virtual Machine (CVM) lifecycle management",
    },
    {"name": "Batches", "description": "What was asked, and how far it is"},
    {"name": "Stop tasks", "description": "Every stop, with every try and what the host said"},
    {"name": "Webhooks", "description": "Who is told of stops that end, and how that went"},
    {"name": "Health", "description": "For load balancers"},
]


def create_app(settings: ApiSettings | None = None) -> FastAPI:
    """Make the application.

    Parameters
    ----------
    settings
        Read from the environment when not given; then logging is set up too, as nobody else did.

    Raises
    ------
    SettingsError
        A setting is missing or wrong.
    """
    if settings is None:
        settings = ApiSettings.load()
        configure_logging(settings)
    parts = make_api_parts(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        """Refuse to start on a schema that is not current."""
        try:
            require_current_schema(parts.engine)
            yield
        finally:
            await parts.feeds.close()
            parts.close()

    app = FastAPI(
        title="cvmstop",
        version=__version__,
        lifespan=lifespan,
        openapi_tags=TAGS,
        redirect_slashes=False,
        # Their pages load scripts from elsewhere. The document itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
    )
    app.state.parts = parts
    app.add_middleware(
        BodyLimit, max_bytes=settings.max_body_bytes, max_seconds=settings.request_timeout
    )
    app.add_middleware(HeadCheck)
    app.add_middleware(RequestContext, metrics=parts.metrics, tracing=parts.tracing)
    add_error_handlers(app)
    for routes in (
        batch_stop,
        operations,
        cvms,
        batches,
        batch_events,
        stop_tasks,
        webhooks,
        health,
        metrics,
    ):
        app.include_router(routes.router)
    add_pages(app, settings)
    describe(app)
    return app
