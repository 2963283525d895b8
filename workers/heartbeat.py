"""Whether this process still consumes, judged by work done.

A worker can live, answer Celery's ping and take no messages. So each sends itself a small task
through a queue of its own, the way that stops come. If none of them, and no other task either, has
begun for long enough although there was nothing to keep it from it, the process ends: whatever
runs it starts it again. docs/decisions/0009-liveness.md has the reasons.
"""

from __future__ import annotations

import math
import os
import threading
from typing import TYPE_CHECKING, Any

import structlog

from shared.exceptions import BrokerUnavailableError


if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.settings import Settings
    from workers.pool import WakingThreadPool

log = structlog.get_logger(__name__)

EXIT_STATUS = os.EX_TEMPFAIL
"""With which a process ends that consumes no more: not 0, so that it is started again."""


class Heartbeat:
    """Sends heartbeats and counts those that went unanswered.

    They are counted, not timed. A count stands still while the process is frozen, and begins anew
    while the broker is away (it is waited for, for ever) or no slot is free (turns are bounded).

    Parameters
    ----------
    settings
        Gives interval, time-out, a turn's limit and the file.
    send
        Sends one heartbeat to this process; raises `BrokerUnavailableError`.
    pool
        Knows what runs.
    is_stopping
        Whether the process has been told to end, and takes no more messages for that reason.
    end
        Ends the process at once: `os._exit`, as the main loop may hang. Tests give their own.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        send: Callable[[], None],
        pool: WakingThreadPool,
        is_stopping: Callable[[], bool],
        end: Callable[[int], object],
    ) -> None:
        self._settings = settings
        self._send = send
        self._pool = pool
        self._is_stopping = is_stopping
        self._end = end
        self._patience = math.ceil(settings.heartbeat_timeout / settings.heartbeat_interval)
        self._worked = threading.Event()
        self._unanswered = 0

    def note_work(self, **_: Any) -> None:
        """Note that a task begins: a heartbeat, a stop or a round of the dispatcher."""
        self._worked.set()

    def step(self) -> None:
        """Look for work done since the last look, and send a heartbeat."""
        if self._is_stopping():
            return
        if self._worked.is_set() or self._pool.is_full:
            self._worked.clear()
            self._unanswered = 0
            self._touch_file()
        if self._pool.is_full:
            return
        if self._unanswered >= self._patience:
            self._give_up()
            return
        try:
            self._send()
        except BrokerUnavailableError:
            self._unanswered = 0
        else:
            self._unanswered += 1

    def _give_up(self) -> None:
        """Let turns end, and then the process; unless it consumes again meanwhile."""
        log.error(
            "no messages come through although the broker takes them and slots are free:"
            " this process ends, to be started again",
            seconds=self._settings.heartbeat_timeout,
            turns=self._pool.running,
        )
        self._pool.wait_until_idle(self._settings.turn_limit)
        if self._worked.is_set():
            log.warning("messages come through again: this process goes on")
            return
        self._end(EXIT_STATUS)

    def _touch_file(self) -> None:
        file = self._settings.heartbeat_file
        if file is None:
            return
        try:
            file.touch()
        except OSError as error:
            log.warning("CVMSTOP_HEARTBEAT_FILE cannot be written", error=str(error))
