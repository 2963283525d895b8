"""A network whose every operation ends by the deadline of the exchange that it belongs to.

Sockets bound single reads and writes, so that a host which sends one byte now and then is waited
for without end. Here the time-out of each operation is what the whole exchange has left.
"""

from __future__ import annotations

import io
import socket
import ssl
import time
from http.client import HTTPException, IncompleteRead
from typing import TYPE_CHECKING, Any

from shared.name_lookup import look_up


if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.drivers.address import HostAddress


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
        """Seconds left for connecting; `TimeoutError` if there are none."""
        return _left(self._connect_by)

    def left(self) -> float:
        """Seconds left for sending and for the answer; `TimeoutError` if there are none."""
        return _left(self.deadline)


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        msg = "no time left"
        raise TimeoutError(msg)
    return left


class BoundedSocket:
    """A connection that obeys the budget of whichever exchange uses it.

    Parameters
    ----------
    sock
        Connected.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, data: bytes, budget: Budget) -> None:
        """Send everything, or raise `TimeoutError` at the deadline."""
        self._sock.settimeout(budget.left())
        budget.sent = True
        self._sock.sendall(data)

    def read_into(self, buffer: memoryview, budget: Budget) -> int:
        """Read what is there, or raise `TimeoutError` at the deadline."""
        self._sock.settimeout(budget.left())
        count = self._sock.recv_into(buffer)
        if count:
            budget.received = True
        else:
            budget.ended = True
        return count

    @property
    def is_quiet(self) -> bool:
        """Whether nothing came since the last answer: neither an end nor what nobody asked for."""
        self._sock.settimeout(0)
        try:
            self._sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()


class AnswerTooLongError(HTTPException):
    """More came than is read of an answer."""


class Incoming(io.BufferedReader):
    """An answer, as `http.client` wants to read it: its end is not the connection's.

    Parameters
    ----------
    sock, budget
        Where it comes from, and the time that it has.
    most
        Bytes that are taken from the connection; whoever wants more gets an `AnswerTooLongError`.
        None for no bound: `http.client` then takes a head of 6.5 MB, and any number of interim
        answers before it.
    """

    def __init__(self, sock: BoundedSocket, budget: Budget, *, most: int | None = None) -> None:
        self._bytes = _Bytes(sock, budget, most)
        super().__init__(self._bytes)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read so many bytes, or up to the end of the connection.

        Raises
        ------
        IncompleteRead
            Everything is wanted: `http.client` does so for a chunk whose size has a minus sign, and
            whatever a host sends would have to fit into memory.
        """
        if size is None or size < 0:
            nothing = b""
            raise IncompleteRead(nothing)
        return super().read(size)

    @property
    def has_more(self) -> bool:
        """Whether something came along that is behind the answer; the answer must be over."""
        self._bytes.is_over = True
        return bool(self.peek(1))

    def makefile(self, _mode: str) -> Incoming:
        """Give itself, where `http.client` expects a socket."""
        return self

    def close(self) -> None:
        """Do nothing: the next answer may be behind this one, and the socket may be kept."""


class _Bytes(io.RawIOBase):
    def __init__(self, sock: BoundedSocket, budget: Budget, most: int | None) -> None:
        self._sock = sock
        self._budget = budget
        self._left = most
        self.is_over = False
        """Nothing more is to be read from the connection."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.is_over:
            return None
        if self._left is None:
            return self._sock.read_into(memoryview(buffer), self._budget)
        if not self._left:
            msg = "the answer is too long"
            raise AnswerTooLongError(msg)
        count = self._sock.read_into(memoryview(buffer)[: self._left], self._budget)
        self._left -= count
        return count


def connect(
    address: HostAddress,
    ssl_context: ssl.SSLContext | None,
    budget: Budget,
    *,
    find: Callable[[str, int, float], list[tuple[int, Any]]] = look_up,
) -> BoundedSocket:
    """Connect: name lookup, TCP and TLS, all within the connect time-out.

    Parameters
    ----------
    address
        Where to.
    ssl_context
        For TLS; None for none.
    budget
        Gives the time.
    find
        Looks the name up, once: what it gives is connected to, and nothing else is.

    Raises
    ------
    OSError
        No address could be connected to, or TLS was not agreed on.
    TimeoutError
        The time was over.
    """
    budget.start_connecting()
    if address.unix_path is not None:
        sock = _connect_to(socket.AF_UNIX, address.unix_path, budget.left_to_connect())
    else:
        sock = _connect_tcp(address.host, address.port, budget, find)
    if ssl_context is not None:
        try:
            sock.settimeout(budget.left_to_connect())
            sock = ssl_context.wrap_socket(sock, server_hostname=address.host)
        except BaseException:
            sock.close()
            raise
    budget.connected = True
    return BoundedSocket(sock)


def _connect_tcp(
    host: str,
    port: int,
    budget: Budget,
    find: Callable[[str, int, float], list[tuple[int, Any]]],
) -> socket.socket:
    """Connect to the first address of a name that answers."""
    found = find(host, port, budget.left_to_connect())
    for tried, (family, address) in enumerate(found, start=1):
        # An address that swallows everything must leave time for those behind it.
        share = budget.left_to_connect() / (len(found) - tried + 1)
        try:
            sock = _connect_to(family, address, share)
        except OSError:
            if tried == len(found):
                raise
        else:
            # A request is one packet; waiting for more of it would only hold it up.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
    msg = "the name has no address"
    raise OSError(msg)


def _connect_to(family: int, address: Any, timeout: float) -> socket.socket:
    sock = socket.socket(family)
    try:
        sock.settimeout(timeout)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock
