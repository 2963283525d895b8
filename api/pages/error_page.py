"""A failure as a page."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api.pages.refusals import PageRefusedError
from api.pages.rendering import render
from shared.exceptions import CvmstopError, RateLimitedError


if TYPE_CHECKING:
    from fastapi import Request
    from fastapi.responses import HTMLResponse

log = structlog.get_logger(__name__)

TITLES = {
    403: "Not allowed",
    404: "Not here",
    405: "Not done like this",
    408: "Too slow",
    413: "Too much",
    422: "Not understood",
    429: "Too often",
    500: "Something broke",
    503: "Not now",
}
"""Headings, by status."""

NO_SUCH_PAGE = "there is nothing at this address, or it is in a workspace that your key is not for"

ONLY_FORMS = "this address only takes forms: go to the page that has it, and send it there"

GONE = "the form did not come whole: send it again"

BROKE = "this is a fault of cvmstop; its log has it, under the id of this request"


def error_page(request: Request, error: Exception) -> HTMLResponse:
    """Say what is wrong, and what to do."""
    status, title, message = _told(error)
    page = render(
        request,
        "error.html",
        status=status,
        title=title or TITLES.get(status) or HTTPStatus(status).phrase,
        message=message,
        request_id=request.state.request_id if status >= 500 else None,
    )
    if isinstance(error, RateLimitedError):
        page.headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, HTTPException) and error.headers:
        page.headers.update(error.headers)
    return page


def _told(error: Exception) -> tuple[int, str, str]:
    """Give status, heading (empty for the status's own) and message."""
    match error:
        case PageRefusedError():
            return error.status, error.title, str(error)
        case CvmstopError():
            if error.status_code >= 500:
                log.warning("page refused", reason=error.slug, error=error.for_operators())
            return error.status_code, "", str(error)
        case RequestValidationError():
            # Pages take nothing through FastAPI but what is in their paths.
            return 404, "", NO_SUCH_PAGE
        case HTTPException():
            said = {404: NO_SUCH_PAGE, 405: ONLY_FORMS}
            return error.status_code, "", said.get(error.status_code, str(error.detail))
        case ClientDisconnect():
            return 400, "", GONE  # to nobody: it went before its form was there
        case _:
            log.error("request broke", exc_info=error)
            return 500, "", BROKE
