"""The connections to one host: so many at most, kept for a moment after an answer."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from workers.drivers.bounded_network import connect


if TYPE_CHECKING:
    import ssl

    from workers.drivers.address import HostAddress
    from workers.drivers.bounded_network import BoundedSocket, Budget

MAX_CONNECTIONS = 256
"""Connections to one host at once; far above any sensible cap, which is what bounds stops."""

KEEP_ALIVE = 4.0
"""Seconds that an idle connection is kept. Rocket, dstack-vmm's web server, closes idle ones
after 5 s (Rocket configuration, `keep_alive`); ours must go first, or a StopVm may be lost."""


class NoFreeConnectionError(Exception):
    """None became free before the deadline; nothing was sent."""


class Connections:
    """Lends connections to many threads, each to one at a time.

    Parameters
    ----------
    address
        Where the host listens.
    ssl_context
        For `https`.
    """

    def __init__(self, address: HostAddress, ssl_context: ssl.SSLContext | None) -> None:
        self._address = address
        self._ssl_context = ssl_context
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._idle: list[tuple[float, BoundedSocket]] = []
        """`time.monotonic()` of its last answer, and the connection; the latest is last."""
        self._closed = False

    def take(self, budget: Budget, *, fresh: bool) -> BoundedSocket:
        """Lend a connection: one that was kept, unless a new one is wanted or there is none.

        Raises
        ------
        NoFreeConnectionError
            All of them were lent until the deadline.
        OSError
            No new one could be made.
        """
        if not self._places.acquire(timeout=budget.left()):
            raise NoFreeConnectionError
        try:
            kept = None if fresh else self._take_kept()
            return kept or connect(self._address, self._ssl_context, budget)
        except BaseException:
            self._places.release()
            raise

    def give_back(self, connection: BoundedSocket, *, keep: bool) -> None:
        """Take a connection back, to be used again or not."""
        with self._lock:
            keep = keep and not self._closed
            if keep:
                self._idle.append((time.monotonic(), connection))
        if not keep:
            connection.close()
        self._places.release()

    def close(self) -> None:
        """Close kept connections; those that are lent, when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    @property
    def idle(self) -> int:
        """How many are kept now."""
        return len(self._idle)

    def _take_kept(self) -> BoundedSocket | None:
        """Give the one that was used last, if it can still be used; those too old are closed."""
        oldest = time.monotonic() - KEEP_ALIVE
        with self._lock:
            lapsed = [kept for since, kept in self._idle if since < oldest]
            del self._idle[: len(lapsed)]
            taken = self._idle.pop()[1] if self._idle else None
        for connection in lapsed:
            connection.close()
        if taken is None or taken.is_quiet:
            return taken
        taken.close()
        return self._take_kept()
