"""A pool of database connections that lends them in the order in which they were asked for."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool


if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry


class Turnstile:
    """Lets so many threads in at once, first come, first served.

    Python's locks and semaphores let a thread that has just come pass those that wait: with 200
    threads and 20 places one in some thousands waited for more than five seconds.

    Parameters
    ----------
    places
        How many may be inside.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        """One for each thread that waits, locked until a place is handed to it."""

    def enter(self, timeout: float) -> bool:
        """Wait for a place, `timeout` seconds at most; False if there was none."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        try:
            if turn.acquire(timeout=timeout):
                return True
        except BaseException:  # such as Ctrl-C
            if not self._gives_up(turn):
                self.leave()
            raise
        return not self._gives_up(turn)

    def _gives_up(self, turn: threading.Lock) -> bool:
        """Wait no longer; False if a place was handed over in this moment."""
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
                return True
        return False

    def leave(self) -> None:
        """Hand the place to who has waited longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1


class FairQueuePool(QueuePool):
    """SQLAlchemy's pool behind a turnstile, so that whoever is in finds a connection."""

    def __init__(self, creator: Any, pool_size: int = 5, **options: Any) -> None:
        super().__init__(creator, pool_size, **options)
        self._turnstile = Turnstile(pool_size)

    def _do_get(self) -> ConnectionPoolEntry:
        began = time.monotonic()
        if not self._turnstile.enter(self._timeout):
            msg = f"no connection became free within {time.monotonic() - began:.1f} s"
            raise PoolTimeoutError(msg)
        try:
            return super()._do_get()
        except BaseException:
            self._turnstile.leave()
            raise

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        try:
            super()._do_return_conn(record)
        finally:
            self._turnstile.leave()
