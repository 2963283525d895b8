"""A limit on the requests of each API key, and on the sign-ins of each address.

Counted in the broker's Redis; see decisions 0008 and 0024.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

import structlog
from limits import parse
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.exceptions import ResponseError

from shared.exceptions import RateLimitedError


if TYPE_CHECKING:
    from uuid import UUID

    from limits import RateLimitItem
    from redis import ConnectionPool

    from shared.absence import Absence

log = structlog.get_logger(__name__)

PREFIX = "cvmstop-rate-limit"
"""Begins every key in Redis; the id of the API key's row follows, never the key or its digest, or
an address that signs in.
"""


class RateLimit:
    """Counts requests by who makes them. Lets everything pass while the counters are out of reach.

    Parameters
    ----------
    notation
        A limit of the settings; empty for none.
    pool
        Connections to the Redis that all API processes share; None to count in this process alone.
    absence
        Shared with what else talks to that Redis in this process.
    """

    def __init__(self, notation: str, pool: ConnectionPool | None, absence: Absence) -> None:
        self._notation = notation
        self._pool = pool
        self._absence = absence
        self._limit = parse(notation) if notation else None
        self._counters = SlidingWindowCounterRateLimiter(
            MemoryStorage()
            if pool is None
            else RedisStorage("redis://", connection_pool=pool, key_prefix=PREFIX)
        )
        self._change = threading.Lock()
        self._in_force = True

    def take(self, who: UUID | str) -> None:
        """Count one request.

        Parameters
        ----------
        who
            The id of an API key, or an address.

        Raises
        ------
        RateLimitedError
            It has used up its limit for now. The request was not counted.
        """
        if self._limit is None:
            return
        if self._absence.lasts:
            self._tell_change(in_force=False, reason="broker away")
            return
        try:
            wait = self._count(self._limit, str(who))
        except ResponseError as error:
            # It answers, if only to refuse (full, read-only): no reason not to send messages.
            self._tell_change(in_force=False, reason=type(error).__name__)
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, stopping machines comes first
            self._absence.begin()
            self._tell_change(in_force=False, reason=type(error).__name__)
            return
        self._tell_change(in_force=True)
        if wait is not None:
            raise RateLimitedError(self._notation, wait)

    def _count(self, limit: RateLimitItem, key: str) -> int | None:
        """Count a request; gives None, or how long to wait (s) when it is one too many."""
        if self._counters.hit(limit, key):
            return None
        room_at = self._counters.get_window_stats(limit, key).reset_time
        return max(1, math.ceil(room_at - time.time()))

    def _tell_change(self, *, in_force: bool, reason: str = "") -> None:
        """Log once that the limit is out of force, or in force again; not for each request."""
        with self._change:
            if in_force == self._in_force:
                return
            self._in_force = in_force
        if in_force:
            log.info("rate limit in force again")
        else:
            log.warning("rate limit out of force, requests are not counted", reason=reason)

    def close(self) -> None:
        """Close kept connections."""
        if self._pool is not None:
            self._pool.disconnect()
