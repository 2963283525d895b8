"""The connections to one libvirt daemon: one for each call at a time, kept, made one by one.

One for each call: a daemon works on five calls of a connection at once (`libvirtd.conf`,
`max_client_requests`), and a destroy may take 40 s, so that questions would wait behind them.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from workers.drivers.libvirt.calls import GivenUpError


if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.drivers.libvirt.calls import Call
    from workers.drivers.libvirt.library import LibvirtLibrary

MAX_IDLE = 8
"""Connections kept for later: what a host's cap is, unless its operator says otherwise."""

LOOK_INTERVAL = 0.5
"""Seconds after which one that waits for a connection looks whether its caller is still there."""


class ConnectingHangsError(Exception):
    """Somebody else's try to connect was given up, and hangs still."""


class LibvirtConnections:
    """Lends connections to threads of calls, each to one at a time.

    Parameters
    ----------
    library
        libvirt.
    connect
        Makes a connection.
    """

    def __init__(self, library: LibvirtLibrary, connect: Callable[[], Any]) -> None:
        self._library = library
        self._connect = connect
        self._changed = threading.Condition()
        self._idle: list[Any] = []
        self._connecting: Call | None = None
        self._closed = False

    @property
    def idle(self) -> int:
        """How many are kept now."""
        return len(self._idle)

    @property
    def hangs(self) -> bool:
        """Whether connecting hangs: a try was given up and has not ended.

        A daemon that is stopped (SIGSTOP) takes connections and says nothing, and before the first
        answer libvirt has no keepalive.
        """
        connecting = self._connecting
        return connecting is not None and connecting.given_up

    def take(self, call: Call) -> tuple[Any, bool]:
        """Lend a connection, and say whether it was kept from before.

        Raises
        ------
        LibraryError
            None could be made.
        ConnectingHangsError, GivenUpError
            It is no use to wait any longer.
        """
        with self._changed:
            while True:
                if call.given_up:
                    raise GivenUpError
                kept = self._take_kept()
                if kept is not None:
                    return kept, True
                if self._connecting is None:
                    self._connecting = call
                    break
                if self.hangs:
                    raise ConnectingHangsError
                self._changed.wait(LOOK_INTERVAL)
        call.connecting(begins=True)
        try:
            return self._connect(), False
        finally:
            call.connecting(begins=False)
            with self._changed:
                self._connecting = None
                self._changed.notify_all()

    def give_back(self, connection: Any) -> None:
        """Take a connection back; it is kept if it still can be used."""
        alive = self._library.is_alive(connection)
        with self._changed:
            keep = alive and not self._closed and len(self._idle) < MAX_IDLE
            if keep:
                self._idle.append(connection)
                self._changed.notify()
        if not keep:
            self._library.close(connection)

    def close(self, patience: float) -> None:
        """Close kept connections; those that are lent, when they come back.

        Waits `patience` seconds at most: a silent daemon holds up who closes.
        """
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
        if not idle:
            return

        def close_all() -> None:
            while idle:
                self._library.close(idle.pop())

        closing = threading.Thread(target=close_all, name="libvirt-close", daemon=True)
        closing.start()
        end = time.monotonic() + patience
        closing.join(max(0.0, end - time.monotonic()))

    def _take_kept(self) -> Any | None:
        """Give the one that was used last, of those that can still be used."""
        while self._idle:
            connection = self._idle.pop()
            if self._library.is_alive(connection):
                return connection
            self._library.close(connection)  # a dead one's is no question to the daemon
        return None
