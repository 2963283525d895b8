"""A short memory that the broker is away, for everything in a process that talks to it."""

from __future__ import annotations

import time


AWAY = 0.5
"""Seconds after a failure in which the broker is not tried; a dispatcher's round takes 1 s."""


class Absence:
    """Spares others the wait that somebody has just had in vain.

    With a frozen broker, what one request does would else wait for one time-out after the other,
    and requests that come together for each other's. One for each process; any thread may use it.
    """

    def __init__(self) -> None:
        self._until = 0.0

    def begin(self) -> None:
        """Take note: the broker was tried, and is away."""
        self._until = time.monotonic() + AWAY

    @property
    def lasts(self) -> bool:
        """Whether the broker was away a moment ago and need not be tried."""
        return time.monotonic() < self._until
