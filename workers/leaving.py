"""Whether a process that was told to end does so, though its broker hangs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import structlog
from celery.worker import state


if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.pool import WakingThreadPool

log = structlog.get_logger(__name__)

IDLE_STEPS = 10
"""Looks in a row, one a second, without a turn, after which a process is ended that was told to.

An orderly end takes about one second after the last turn.
"""


def is_told_to_end() -> bool:
    """Whether a signal or a remote command has told this process to end.

    Celery notes an exit status, 0 among them, or `True` (`celery.worker.state`).
    """
    told: tuple[object, ...] = (state.should_stop, state.should_terminate)
    return any(status is not None and status is not False for status in told)


class Leaving:
    """Ends a process that was told to end, when its main loop does not.

    The loop sends Celery's events to the broker by itself, without a bound: while the broker
    accepts connections and answers nobody, the loop never comes to look at what it was told.
    Turns that run are let end first, however long they take: they are bounded by themselves.

    Parameters
    ----------
    pool
        Knows what runs.
    is_told
        Whether the process was told to end.
    end
        Ends the process at once: `os._exit`, as the main loop hangs. Tests give their own.
    """

    def __init__(
        self,
        pool: WakingThreadPool,
        *,
        is_told: Callable[[], bool],
        end: Callable[[int], object],
    ) -> None:
        self._pool = pool
        self._is_told = is_told
        self._end = end
        self._idle = 0

    def step(self) -> None:
        """Look whether the process should be gone; to be called each second."""
        if not self._is_told() or self._pool.running:
            self._idle = 0
            return
        self._idle += 1
        if self._idle < IDLE_STEPS:
            return
        log.warning(
            "told to end, and no turn runs, but the main loop hangs (is the broker frozen?):"
            " this process ends at once"
        )
        self._end(os.EX_OK)
