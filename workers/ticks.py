"""Whether beat still wakes the dispatcher, judged by its ticks; and what to do if it does not."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import structlog

from shared.exceptions import DatabaseUnavailableError


if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)

TICKS_MISSED = 10
"""Dispatch intervals without a tick, after which the dispatcher runs its rounds by itself.

A beat that is started again, or that lost its broker for a moment, is back before; and of several
dispatchers each gets only its share of the ticks.
"""


class Ticks:
    """Counts the dispatch intervals without a tick, and stands in for a beat that sends none.

    Beat may be dead, frozen, or cut off from the broker, and nobody else would notice: rounds are
    what makes up for every loss. Two at once do no harm, so that nothing has to be agreed upon.

    Parameters
    ----------
    run_round
        Runs one round of the dispatcher; raises `DatabaseUnavailableError`.
    is_stopping
        Whether the process has been told to end.
    """

    def __init__(self, run_round: Callable[[], object], *, is_stopping: Callable[[], bool]) -> None:
        self._run_round = run_round
        self._is_stopping = is_stopping
        self._ticked = threading.Event()
        self._missed = 0

    def note(self, **_: Any) -> None:
        """Note a tick: a round begins because beat said so."""
        self._ticked.set()

    def step(self) -> None:
        """Look whether there was a tick since the last look; to be called each interval."""
        if self._is_stopping():
            return
        if self._ticked.is_set():
            self._ticked.clear()
            if self._missed >= TICKS_MISSED:
                log.info("ticks come again")
            self._missed = 0
            return
        self._missed += 1
        if self._missed < TICKS_MISSED:
            return
        if self._missed == TICKS_MISSED:
            log.error(
                "no tick comes from beat: rounds are run without it. Does it run, and the broker?",
                missed=self._missed,
            )
        try:
            self._run_round()
        except DatabaseUnavailableError as error:
            log.warning("database unavailable", error=error.for_operators())
