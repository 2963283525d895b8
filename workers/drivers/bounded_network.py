"""A network whose every operation ends by the deadline of the exchange that it belongs to.

httpcore bounds single reads and writes, so that a host which sends one byte now and then is
waited for without end. Here the time-out of each operation is what the whole exchange has left.
httpcore does all input and output of a request on the thread that asked, so a context variable
is enough to tell an operation which exchange it is part of.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import httpcore


if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable


class Budget:
    """The time that one exchange has, and how far it came.

    Parameters
    ----------
    deadline
        `time.monotonic()` by which the whole exchange ends.
    connect_timeout
        Longest wait for a connection in seconds: name lookup, TCP and TLS together.
    """

    def __init__(self, *, deadline: float, connect_timeout: float) -> None:
        self.deadline = deadline
        self.connected = False
        """A new connection was made for this exchange."""
        self.sent = False
        """Some of the request may have left."""
        self.received = False
        """Some of the answer came."""
        self.ended = False
        """The host closed the connection."""
        self._connect_timeout = connect_timeout
        self._connect_by = deadline

    def start_connecting(self) -> None:
        """Let the connect time-out run from now."""
        self._connect_by = min(self.deadline, time.monotonic() + self._connect_timeout)

    def left_to_connect(self) -> float:
        """Seconds left for connecting; `httpcore.ConnectTimeout` if there are none."""
        return _left(self._connect_by, httpcore.ConnectTimeout)

    def left_to_write(self) -> float:
        """Seconds left for sending; `httpcore.WriteTimeout` if there are none."""
        return _left(self.deadline, httpcore.WriteTimeout)

    def left_to_read(self) -> float:
        """Seconds left for the answer; `httpcore.ReadTimeout` if there are none."""
        return _left(self.deadline, httpcore.ReadTimeout)


CURRENT_BUDGET: ContextVar[Budget] = ContextVar("CURRENT_BUDGET")
"""The budget of the exchange that this thread is in; set for each one by the transport."""


def _left(until: float, error: type[httpcore.TimeoutException]) -> float:
    left = until - time.monotonic()
    if left <= 0:
        msg = "no time left"
        raise error(msg)
    return left


class BoundedStream(httpcore.NetworkStream):
    """A connection that obeys the budget of whichever exchange uses it.

    What is written is kept until an answer is asked for, so that a request's head and its body,
    which httpcore writes one after the other, are one system call and one packet.
    """

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream
        self._unsent = b""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 (httpcore's signature; the budget decides)
        """Read what is there, or raise `httpcore.ReadTimeout` at the deadline."""
        budget = CURRENT_BUDGET.get()
        self._send(budget)
        data = self._stream.read(max_bytes, budget.left_to_read())
        if data:
            budget.received = True
        else:
            budget.ended = True
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 (as above)
        """Keep it until `read`."""
        self._unsent += buffer

    def _send(self, budget: Budget) -> None:
        """Send everything, or raise `httpcore.WriteTimeout` at the deadline."""
        if not self._unsent:
            return
        left = budget.left_to_write()
        budget.sent = True
        unsent, self._unsent = self._unsent, b""
        self._stream.write(unsent, left)

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002 (as above)
    ) -> httpcore.NetworkStream:
        """Agree on TLS within what is left of the connect time-out."""
        left = CURRENT_BUDGET.get().left_to_connect()
        return BoundedStream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        """Tell httpcore what it wants to know of the socket."""
        return self._stream.get_extra_info(info)


class BoundedBackend(httpcore.NetworkBackend):
    """Makes connections that obey budgets."""

    def __init__(self) -> None:
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 (httpcore's signature; the budget decides)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of a name that answers, all within the connect time-out.

        Raises
        ------
        httpcore.ConnectError
            No address could be connected to, or the name has none.
        httpcore.ConnectTimeout
            The time was over.
        """
        budget = CURRENT_BUDGET.get()
        budget.start_connecting()
        addresses = _resolve(host, port, budget.left_to_connect())
        for tried, address in enumerate(addresses, start=1):
            # An address that swallows everything must leave time for those behind it.
            share = budget.left_to_connect() / (len(addresses) - tried + 1)
            try:
                stream = self._backend.connect_tcp(
                    address, port, share, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if tried == len(addresses):
                    raise
            else:
                budget.connected = True
                return BoundedStream(stream)
        msg = "the name has no address"
        raise httpcore.ConnectError(msg)

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ARG002 (as above)
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to a Unix socket within the connect time-out."""
        budget = CURRENT_BUDGET.get()
        budget.start_connecting()
        stream = self._backend.connect_unix_socket(path, budget.left_to_connect(), socket_options)
        budget.connected = True
        return BoundedStream(stream)


def _resolve(host: str, port: int, timeout: float) -> list[str]:
    """Look a name up; on a thread of its own, because getaddrinfo takes no time-out."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass  # a name
    found: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # UnicodeError: a label too long or empty
            found.put(error)
        else:
            found.put([str(row[4][0]) for row in rows])

    threading.Thread(target=look_up, name="name-lookup", daemon=True).start()
    try:
        answer = found.get(timeout=timeout)
    except queue.Empty:
        msg = "the name was not resolved in time"
        raise httpcore.ConnectTimeout(msg) from None
    if isinstance(answer, Exception):
        raise httpcore.ConnectError(answer) from answer
    return answer
