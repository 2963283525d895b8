"""Hosts made of bare sockets, for answers that no HTTP server would give."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self


if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType


@dataclass(frozen=True)
class Request:
    """One request that a host got."""

    line: str
    headers: dict[str, str]
    body: bytes
    connection: int
    """0 for the first connection that the host accepted, and so on."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Peer:
    """One connection, seen from the host."""

    def __init__(self, host: RawHost, sock: socket.socket, number: int) -> None:
        self._host = host
        self._sock = sock
        self._number = number
        self._buffer = b""

    def read_request(self) -> Request | None:
        """Read one whole request; None at the end of the connection."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._receive():
                return None
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        line, *rows = head.decode("ascii").split("\r\n")
        headers = {name.lower(): value for name, value in (row.split(": ", 1) for row in rows)}
        length = int(headers["content-length"])
        while len(self._buffer) < length:
            if not self._receive():
                return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        request = Request(line, headers, body, self._number)
        self._host.requests.append(request)
        return request

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def receive(self) -> bytes:
        """Give whatever comes next."""
        return self._sock.recv(65_536)

    def drip(self, data: bytes) -> None:
        """Send a byte at a time, each one well within any time-out for a single read."""
        for byte in data:
            self.send(bytes([byte]))
            if self._host.stopping.wait(0.01):
                return

    def wait_for_end(self) -> None:
        """Say nothing until the other side closes."""
        while self.receive():
            pass

    def _receive(self) -> bool:
        data = self.receive()
        self._buffer += data
        return bool(data)


class RawHost:
    """Accepts connections, and leaves each one to a function on a thread of its own."""

    def __init__(
        self,
        behave: Callable[[Peer], None],
        *,
        unix_path: Path | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.requests: list[Request] = []
        self.accepted = 0
        self.stopping = threading.Event()
        self._behave = behave
        self._ssl_context = ssl_context
        if unix_path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            scheme = "http" if ssl_context is None else "https"
            self.address = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(unix_path))
            self._listener.listen()
            self.address = f"unix:{unix_path}"
        self._threads = [threading.Thread(target=self._accept)]
        self._socks: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for sock in self._socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock, self.accepted))
            self.accepted += 1
            self._socks.append(sock)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.suppress(OSError))  # the other side may go at any time
            stack.enter_context(sock)
            if self._ssl_context is not None:
                sock = stack.enter_context(self._ssl_context.wrap_socket(sock, server_side=True))
                self._socks.append(sock)
            self._behave(Peer(self, sock, number))


def http_answer(body: object, status: int = 200, *, headers: str = "") -> bytes:
    """Write an answer down; `body` is bytes as they are, or anything else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n{headers}\r\n"
    return head.encode() + content


def answering(*answers: bytes) -> Callable[[Peer], None]:
    """Answer each request of a connection with the next of these, the last one ever after."""

    def behave(peer: Peer) -> None:
        waiting = list(answers)
        while peer.read_request() is not None:
            peer.send(waiting.pop(0) if len(waiting) > 1 else waiting[0])

    return behave
