"""Around every request: its id, its log line, its head, how much body it may have, how slowly."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from typing import TYPE_CHECKING

import structlog
from fastapi import HTTPException
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse
from starlette.datastructures import Headers, MutableHeaders

from api.errors import answer_unexpected
from api.request_spans import request_span, tell_answer


if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from api.metrics import ApiMetrics
    from shared.spans import Tracing

log = structlog.get_logger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""Request ids that are taken over from a client; any other gets one of ours."""

EVENT_STREAM = EventSourceResponse.media_type
"""Content type of an answer that goes on for as long as its reader likes."""

MAX_HEAD_BYTES = 16 * 1024
"""Largest head of a request: h11's `DEFAULT_MAX_INCOMPLETE_EVENT_SIZE`, for one in pieces."""

FIELD_EXTRA = len(": \r\n")
"""What a header takes besides its name and its value."""


class RequestContext:
    """Gives each request its id (the client's `X-Request-ID`, or ours), a line, a count, a span."""

    def __init__(self, app: ASGIApp, *, metrics: ApiMetrics, tracing: Tracing) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        wanted = Headers(scope=scope).get("x-request-id", "")
        request_id = wanted if REQUEST_ID.fullmatch(wanted) else str(uuid.uuid4())
        scope.setdefault("state", {})["request_id"] = request_id
        status: int | None = None
        is_stream = False
        found: dict[str, str] = {}
        began = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status, is_stream
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                if batch_id := headers.get("x-batch-id"):
                    found["batch_id"] = batch_id
                if headers.get("content-type", "").startswith(EVENT_STREAM):
                    # How long somebody looks on says nothing of how quickly it was answered.
                    is_stream = True
                    self._metrics.note_request(scope, status, time.perf_counter() - began)
            await send(message)

        with (
            structlog.contextvars.bound_contextvars(request_id=request_id),
            request_span(self._tracing, scope, request_id) as span,
        ):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception as error:
                if status is not None:
                    raise  # part of another answer is under way already
                await answer_unexpected(error, request_id)(scope, receive, send_with_id)
            finally:
                seconds = time.perf_counter() - began
                if not is_stream:
                    self._metrics.note_request(scope, status, seconds)
                tell_answer(span, scope, status, found.get("batch_id"))
                log.info(
                    "request",
                    method=scope["method"],
                    path=_printable_path(scope),
                    status=status,
                    seconds=round(seconds, 4),
                    **found,
                )


def _printable_path(scope: Scope) -> str:
    """Give the path as it was sent, percent signs and all: decoded, it may steer a terminal."""
    raw: bytes = scope.get("raw_path") or b""
    return raw.partition(b"?")[0].decode("ascii", "backslashreplace")


class HeadCheck:
    """Answers 400, and closes, to a head that is too large or leaves the body's end in doubt.

    A request with both `Content-Length` and `Transfer-Encoding` may be one of two for a proxy
    before this API, and the second would be the attacker's (RFC 9112, sections 6.1 and 11.2); h11
    takes it, and counts as incomplete only what is not there yet, so that a large head that comes
    at once passes there. Nothing of a body is read, and nothing behind it is served.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI scope."""
        if scope["type"] != "http" or (problem := _wrong_with_head(scope)) is None:
            await self._app(scope, receive, send)
            return
        answer = JSONResponse(
            {"detail": problem, "error": "not_http"},
            status_code=400,
            headers={"Connection": "close"},
        )
        await answer(scope, receive, send)


def _wrong_with_head(scope: Scope) -> str | None:
    headers = Headers(scope=scope)
    if "transfer-encoding" in headers:
        if "content-length" in headers:
            return "a request has Content-Length or Transfer-Encoding, not both"
        if scope["http_version"] == "1.0":
            return "Transfer-Encoding needs HTTP/1.1; send Content-Length"
    target = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    fields = sum(len(name) + len(value) + FIELD_EXTRA for name, value in headers.raw)
    if target + fields > MAX_HEAD_BYTES:
        return "the request's headers are larger than 16 KiB"
    return None


class BodyLimit:
    """Answers 413 to a body over `max_bytes`, and 408 to one that takes over `max_seconds`.

    Only when somebody reads it, so that a request without a valid key is answered 401 whatever its
    body. Nobody's thread waits meanwhile.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, max_seconds: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        too_long = announced.isdecimal() and int(announced) > self._max_bytes
        received = 0
        whole = False
        began: float | None = None

        async def receive_bounded() -> Message:
            nonlocal received, whole, began
            if too_long:
                raise self._too_large()
            if whole:
                return await receive()  # waits for the client to go, however long
            now = asyncio.get_running_loop().time()
            began = now if began is None else began
            try:
                async with asyncio.timeout_at(began + self._max_seconds):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow() from None
            received += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if received > self._max_bytes:
                raise self._too_large()
            return message

        await self._app(scope, receive_bounded, send)

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the body is larger than {self._max_bytes} bytes")

    def _too_slow(self) -> HTTPException:
        message = f"the body was not there within {self._max_seconds:g} seconds"
        # The rest of it may come still, and is no next request.
        return HTTPException(408, message, headers={"Connection": "close"})
