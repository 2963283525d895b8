"""Bounded HTTP to one dstack-vmm: its pRPC calls, each over by a deadline and of bounded size."""

from __future__ import annotations

import time
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPResponse, IncompleteRead, RemoteDisconnected
from typing import TYPE_CHECKING, cast

from shared.models.errors import ErrorCode
from workers.drivers.bounded_network import Budget, Incoming
from workers.drivers.connections import Connections
from workers.drivers.errors import OutOfTimeError
from workers.drivers.network_failures import FAILURES, explain


if TYPE_CHECKING:
    import socket
    import ssl

    from workers.drivers.address import HostAddress


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a host answered."""

    status: int
    body: bytes
    is_whole: bool
    """False if the body was longer than wanted, and the rest was left unread."""


class Transport:
    """Connections to one host, used by many threads at once.

    Requests are written as they are always the same; `http.client` reads the answers.

    Parameters
    ----------
    address
        Where the host listens.
    authorization
        Value of the `Authorization` header, sent with every request; None for none. Of printable
        ASCII.
    ssl_context
        For `https`.
    connect_timeout
        Longest wait for a connection in seconds: name lookup, TCP and TLS together.
    """

    def __init__(
        self,
        address: HostAddress,
        *,
        authorization: str | None,
        ssl_context: ssl.SSLContext | None,
        connect_timeout: float,
    ) -> None:
        self._address = address
        self._connect_timeout = connect_timeout
        headers = {
            "Host": address.host_header,
            "User-Agent": "cvmstop",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
        }
        if authorization is not None:
            headers["Authorization"] = authorization
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._connections = Connections(address, ssl_context)

    def post(
        self, method: str, content: bytes, *, deadline: float, max_bytes: int, fresh: bool = False
    ) -> Answer:
        """Call one pRPC method, and give whatever HTTP answer comes. Redirects are not followed.

        Always a POST: dstack-vmm takes a GET for a call too, and one that changes things.

        Parameters
        ----------
        method
            Such as `StopVm`; the path is `/prpc/<method>?json` (dstack `vmm/src/main.rs`).
        content
            The request's body, JSON.
        deadline
            `time.monotonic()` by which the exchange ends: connection, headers and body together.
        max_bytes
            Longest body that is read.
        fresh
            Use a new connection.

        Raises
        ------
        HostUnreachableError
            No connection; nothing was sent.
        OutcomeUnknownError
            Sent, and no whole answer came.
        StaleConnectionError
            The same, on a kept connection that broke before any of the answer came.
        OutOfTimeError
            The deadline passed before a connection was tried; nothing was sent.
        HostRefusedError
            `bad_answer`: what came is not HTTP.
        """
        what = f"{method} at {self._address.text}"
        started = time.monotonic()
        if started >= deadline:
            msg = f"{what}: not sent, the time for this turn was over"
            raise OutOfTimeError(ErrorCode.HOST_TIMEOUT, msg)
        budget = Budget(deadline=deadline, connect_timeout=self._connect_timeout)
        try:
            return self._exchange(self._request(method, content), max_bytes, budget, fresh=fresh)
        except FAILURES as error:
            raise explain(what, error, budget, time.monotonic() - started) from None

    def close(self) -> None:
        """Close kept connections; those in use when their request ends."""
        self._connections.close()

    def _request(self, method: str, content: bytes) -> bytes:
        head = (
            f"POST {self._address.prefix}/prpc/{method}?json HTTP/1.1\r\n"
            f"{self._headers}Content-Length: {len(content)}\r\n\r\n"
        )
        return head.encode("ascii") + content

    def _exchange(self, request: bytes, max_bytes: int, budget: Budget, *, fresh: bool) -> Answer:
        connection = self._connections.take(budget, fresh=fresh)
        keep = False
        try:
            connection.send(request, budget)
            incoming = Incoming(connection, budget)
            response = begin_answer(incoming, budget)
            body = response.read(max_bytes + 1)
            is_whole = len(body) <= max_bytes
            if is_whole and response.length:
                raise IncompleteRead(body, response.length)
            keep = is_whole and not response.will_close and not incoming.has_more
        finally:
            self._connections.give_back(connection, keep=keep)
        return Answer(status=response.status, body=body[:max_bytes], is_whole=is_whole)


def begin_answer(incoming: Incoming, budget: Budget) -> HTTPResponse:
    """Read an answer's head, and those of interim answers before it (RFC 9110, section 15.2)."""
    while True:
        # Of a socket, `HTTPResponse` wants nothing but something to read from.
        response = HTTPResponse(cast("socket.socket", incoming), method="POST")
        response.begin()
        if budget.ended:
            # `http.client` takes the connection's end for the end of the head.
            msg = "the answer ended in its head"
            raise RemoteDisconnected(msg)
        if response.status >= HTTPStatus.OK:
            return response
