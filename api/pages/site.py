"""What makes the pages part of the application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi.exception_handlers import http_exception_handler
from starlette.exceptions import HTTPException

from api.errors import answer_other_method
from api.pages import (
    batch,
    batch_events,
    batches,
    cvms,
    failures,
    new,
    overview,
    sign_in,
    static_files,
    stop,
)
from api.pages.error_page import error_page
from api.pages.rendering import make_templates


if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

    from shared.settings import ApiSettings

MACHINES = ("/api/", "/health/", "/metrics", "/openapi.json", "/static/")
"""Paths that programs ask for: what fails there is told as it was before there were pages."""

PAGES = (
    sign_in.router,
    sign_in.signed_in,
    overview.router,
    batches.router,
    batch.router,
    batch_events.router,
    stop.router,
    failures.router,
    cvms.router,
    new.router,
    static_files.router,
)


def add_pages(app: FastAPI, settings: ApiSettings) -> None:
    """Serve the pages, and tell browsers in HTML of paths and methods that there are not."""
    app.state.templates = make_templates(settings)
    for router in PAGES:
        app.include_router(router)
    app.add_exception_handler(404, _answer_not_found)
    app.add_exception_handler(405, _answer_other_method)


async def _answer_not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - tells mypy what the registration says
    if _is_for_a_person(request):
        return error_page(request, error)
    return await http_exception_handler(request, error)


async def _answer_other_method(request: Request, error: Exception) -> Response:
    answer = answer_other_method(request, error)
    if not _is_for_a_person(request):
        return answer
    page = error_page(request, error)
    page.headers["Allow"] = answer.headers["Allow"]
    return page


def _is_for_a_person(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return "text/html" in accepted and not request.url.path.startswith(MACHINES)
