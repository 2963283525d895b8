"""A request as a span: OpenTelemetry's conventions for HTTP servers."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from api.metrics import METHODS
from shared.spans import NO_SPAN, Kind


if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from starlette.types import Scope

    from shared.spans import Span, Tracing

UNTRACED = ("/health/", "/metrics")
"""What machines ask for every few seconds; nobody looks for it."""

OTHER_METHOD = "_OTHER"
"""Stands for a method that a client has made up; in a span's name, `HTTP` does. Both are the
conventions'."""


def request_span(tracing: Tracing, scope: Scope, request_id: str) -> AbstractContextManager[Span]:
    """Make a request a span, of the caller's trace if it sends a `traceparent`.

    Neither query nor headers are told: a caller may have put anything there.
    """
    if not tracing.is_on or scope["path"].startswith(UNTRACED):
        return nullcontext(NO_SPAN)
    headers = Headers(scope=scope)
    given = ("traceparent", "tracestate")
    return tracing.span(
        _name(scope),
        Kind.SERVER,
        {
            "http.request.method": _method(scope),
            "url.scheme": scope["scheme"],
            "url.path": scope["path"],
            "network.protocol.version": scope["http_version"],
            "cvmstop.request.id": request_id,
        },
        parent={name: headers[name] for name in given if name in headers},
    )


def tell_answer(span: Span, scope: Scope, status: int | None, batch_id: str | None) -> None:
    """Tell what a request was found to be, and how it was answered; `None` if it was not."""
    if span is NO_SPAN:
        return
    if route := getattr(scope.get("route"), "path", None):
        span.rename(f"{_name(scope)} {route}")
        span.tell({"http.route": route})
    if batch_id is not None:
        span.tell({"cvmstop.batch.id": batch_id})
    if status is not None:
        span.tell({"http.response.status_code": status})
        if status >= 500:
            span.fail(str(status))


def _method(scope: Scope) -> str:
    method: str = scope["method"]
    return method if method in METHODS else OTHER_METHOD


def _name(scope: Scope) -> str:
    method = _method(scope)
    return "HTTP" if method == OTHER_METHOD else method
