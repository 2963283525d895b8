"""A broker that is frozen: it takes connections and says nothing."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Iterator


class SilentServer:
    """Listens, and leaves everything else to the kernel, as a process does after SIGSTOP."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._listener.setblocking(False)
        self._taken: list[socket.socket] = []
        self.url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"

    def connections(self) -> int:
        """Count who has connected so far."""
        try:
            while True:
                self._taken.append(self._listener.accept()[0])
        except BlockingIOError:
            return len(self._taken)

    def close(self) -> None:
        """Drop everybody."""
        self.connections()
        for taken in self._taken:
            taken.close()


@contextmanager
def silent_server() -> Iterator[SilentServer]:
    """Run one; it is gone with the block."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        server = SilentServer(listener)
        try:
            yield server
        finally:
            server.close()
