"""uvicorn as the API runs it: no client holds a connection for longer than a bound.

uvicorn bounds the size of a request's head that comes in pieces (16 KiB; `HeadCheck` of
`api.middleware` bounds one that comes at once) and the wait for a kept connection's next request
(5 s, until its first byte). Nothing of it bounds a client that sends slowly, that never sends, that
never reads its answer, or that opens connections without end. What the application
waits for, a body, is bounded by `api.middleware.BodyLimit`.
"""

from __future__ import annotations

import json
import resource
import sys
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, ClassVar

import h11
import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.errors import RETRY_AFTER


if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

    from starlette.types import ASGIApp

    from shared.settings import ApiSettings

log = structlog.get_logger(__name__)

STARTUP_FAILURE = 3
"""Exit status when it cannot be served: what uvicorn's own command ends with."""

OTHER_FILES = 100
"""Files that are open beside clients' connections: the pool's, the broker's, the program's own."""

CAN_ANSWER = (h11.IDLE, h11.SEND_RESPONSE)
"""Where the connection stands while nothing of an answer has been sent."""

CLIENTS_TURN = (h11.IDLE, h11.DONE)
"""Where it stands while a head is awaited, or the rest of a body that was answered already."""


def serve(
    app: ASGIApp, settings: ApiSettings, *, host: str, port: int, on_stop: Callable[[], None]
) -> None:
    """Serve the application until the process is told to stop.

    Parameters
    ----------
    on_stop
        Called in the event loop before requests that go on are waited for: ends those that would
        not end by themselves.
    """
    _allow_open_files(settings.max_connections + OTHER_FILES)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=bounded_protocol(settings),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    server = Server(config, on_stop)
    with suppress(KeyboardInterrupt):  # Ctrl-C, which the server raises again when it has ended
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILURE)


class Server(uvicorn.Server):
    """Says when it is told to stop."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, and wait for those that there are."""
        self._on_stop()
        await super().shutdown(sockets)


def _allow_open_files(wanted: int) -> None:
    """Raise the process's own limit as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("fewer files may be open than connections", allowed=allowed, wanted=wanted)


def bounded_protocol(settings: ApiSettings) -> type[H11Protocol]:
    """Make the protocol class: uvicorn takes a class, and gives it nothing of ours."""

    class Protocol(BoundedProtocol):
        request_timeout = settings.request_timeout
        max_connections = settings.max_connections

    return Protocol


class BoundedProtocol(H11Protocol):
    """One connection, cut off when its client has had its time.

    While it is the client's turn a timer runs, which no trickle of bytes sets back: from the
    connection's beginning, or the last answer's end, until a whole head is there. Another one runs
    while an answer, or its rest, is not taken.
    """

    request_timeout: ClassVar[float]
    """Seconds for each of them."""

    max_connections: ClassVar[int]
    """Connections of this process; one more is answered 503."""

    _head_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Take a connection, or refuse it."""
        super().connection_made(transport)
        # Whatever the kernel does not take at once is an answer that is waiting for its client.
        transport.set_write_buffer_limits(high=0)
        if len(self.connections) > self.max_connections:
            self._refuse(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "too_many_connections",
                "too many connections are open; try again soon",
            )
        else:
            self._await_head()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        super().data_received(data)
        if self.conn.our_state not in CLIENTS_TURN:
            _cancel(self._head_timer)

    def on_response_complete(self) -> None:
        """Await the next request, unless it was sent along with the last one."""
        super().on_response_complete()
        if self.conn.our_state in CLIENTS_TURN:
            self._await_head()

    def pause_writing(self) -> None:
        """Begin to wait for the client to take what was sent."""
        super().pause_writing()
        self._answer_timer = self.loop.call_later(self.request_timeout, self._answer_not_taken)

    def resume_writing(self) -> None:
        """Know that it was taken."""
        super().resume_writing()
        _cancel(self._answer_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        _cancel(self._head_timer)
        _cancel(self._answer_timer)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP; uvicorn's own breaks when an answer was sent already."""
        del msg  # uvicorn's is in its log
        self._refuse(
            HTTPStatus.BAD_REQUEST,
            "not_http",
            "not a valid HTTP/1.1 request, or its headers are larger than 16 KiB",
        )

    def _await_head(self) -> None:
        _cancel(self._head_timer)
        self._head_timer = self.loop.call_later(self.request_timeout, self._head_not_sent)

    def _head_not_sent(self) -> None:
        self._log_cut("no whole request in time")
        begun, _ = self.conn.trailing_data
        if begun and self.conn.our_state is h11.IDLE:
            self._refuse(
                HTTPStatus.REQUEST_TIMEOUT,
                "request_timeout",
                f"the request's headers were not there within {self.request_timeout:g} seconds",
            )
        else:
            self.transport.close()

    def _answer_not_taken(self) -> None:
        self._log_cut("answer not taken in time")
        self.transport.abort()

    def _refuse(self, status: HTTPStatus, slug: str, detail: str) -> None:
        """Answer instead of the application, as far as that is possible still, and close."""
        if self.conn.our_state in CAN_ANSWER:
            body = json.dumps({"detail": detail, "error": slug}).encode()
            headers = [("Content-Type", "application/json"), ("Connection", "close")]
            if status is HTTPStatus.SERVICE_UNAVAILABLE:
                headers.append(("Retry-After", RETRY_AFTER))
            headers.append(("Content-Length", str(len(body))))
            head = h11.Response(status_code=status, headers=headers, reason=status.phrase)
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            if self.cycle is not None:
                # The application may be about to answer the same request: that goes nowhere now.
                self.cycle.disconnected = True
        self.transport.close()

    def _log_cut(self, reason: str) -> None:
        log.info("connection cut off", reason=reason, client=self.client and self.client[0])


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
