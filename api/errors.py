"""From a failure to an answer: JSON with `detail` for people, and `error` for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from shared.exceptions import AuthenticationError, CvmstopError, RateLimitedError


if TYPE_CHECKING:
    from fastapi import FastAPI, Request

log = structlog.get_logger(__name__)

RETRY_AFTER = "2"
"""Seconds that a client should wait after a 503: PostgreSQL restarts in about one."""


def add_error_handlers(app: FastAPI) -> None:
    """Register every handler."""
    app.add_exception_handler(CvmstopError, _answer_known)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(405, answer_other_method)


def _answer_known(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, CvmstopError)  # noqa: S101 - tells mypy what the registration says
    headers: dict[str, str] = {}
    if isinstance(error, AuthenticationError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, RateLimitedError):
        headers["Retry-After"] = str(error.retry_after)
    if error.status_code == 503:
        headers["Retry-After"] = RETRY_AFTER
        log.warning("request refused", reason=error.slug, error=error.for_operators())
    content = {"detail": str(error), "error": error.slug}
    return JSONResponse(content, status_code=error.status_code, headers=headers)


def _answer_invalid(_: Request, error: Exception) -> JSONResponse:
    """Answer in FastAPI's shape, without echoing the input back."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as above
    problems = [
        {
            "loc": [_printable(part) for part in problem["loc"]],
            "msg": problem["msg"],
            "type": problem["type"],
        }
        for problem in error.errors()
    ]
    return JSONResponse({"detail": problems}, status_code=422)


def answer_other_method(request: Request, error: Exception) -> JSONResponse:
    """Name every method that the path has; Starlette names those of its first route only."""
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    path = request.scope["path"]
    known = [route for route in iter_route_contexts(request.app.routes) if route.path]
    # A path that is written out is none of those with a parameter in that place.
    found = [route for route in known if route.path == path] or [
        route for route in known if compile_path(str(route.path))[0].match(path)
    ]
    methods = {method for route in found for method in route.methods or ()}
    headers = {"Allow": ", ".join(sorted(methods))}
    return JSONResponse({"detail": error.detail}, status_code=405, headers=headers)


def _printable(part: str | int) -> str | int:
    """Make a field's name one that can be sent: JSON's escapes allow some that UTF-8 does not."""
    return part.encode(errors="replace").decode() if isinstance(part, str) else part


def answer_unexpected(error: Exception, request_id: str) -> JSONResponse:
    """Give the answer to a request that broke, and log why."""
    log.error("request broke", exc_info=error)
    return JSONResponse(
        {"detail": "internal error; the server's log has it", "request_id": request_id},
        status_code=500,
    )
