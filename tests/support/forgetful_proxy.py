"""A TCP proxy that forgets its connections, as a firewall does: nobody is told."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self


class ForgetfulProxy:
    """Passes connections on to a port of this machine; a context manager that ends it.

    Parameters
    ----------
    target
        The port to pass on to.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._forgotten: set[socket.socket] = set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for pair in self._pairs:
            for each in pair:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()

    def forget(self) -> None:
        """Swallow what comes on the connections that there are; new ones are well."""
        self._forgotten.update(*self._pairs)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._pairs.append((near, far))
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if source not in self._forgotten:
                    sink.sendall(data)
            if source not in self._forgotten:
                sink.shutdown(socket.SHUT_RDWR)
