"""The Celery tasks that keep the inventory true: thin shells, as those of `workers.tasks`."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from shared.broker import SYNC_DUE_TASK, SYNC_HOST_TASK
from shared.exceptions import DatabaseUnavailableError
from workers.sync_round import send_due


if TYPE_CHECKING:
    from celery import Celery

    from workers.parts import WorkerProcess

log = structlog.get_logger(__name__)

DATABASE_AWAY = "database unavailable: the next interval's sync goes on"
"""Result of a sync, or of a round that sends some, that found no database, or lost it."""

ROUND_UNDER_WAY = "a round is under way in this process"
"""Result of a round that left the work to another one."""


def register_sync_tasks(app: Celery, process: WorkerProcess, options: dict[str, Any]) -> None:
    """Register them under the names that senders use, with the options of every task.

    Without events: in Flower they would push out what people look for. What came of a sync is in
    `cvmstop hosts list`.
    """
    sending = Lock()

    @app.task(name=SYNC_DUE_TASK, send_events=False, **options)
    def sync_due() -> str:
        """Send what is due to be synced."""
        parts = process.parts
        # Messages that piled up come together, and would take every slot from the dispatcher.
        if not sending.acquire(blocking=False):
            return ROUND_UNDER_WAY
        try:
            sent = send_due(parts.engine, parts.broker, parts.settings)
        except DatabaseUnavailableError as error:
            log.warning("database unavailable", error=error.for_operators())
            return DATABASE_AWAY
        finally:
            sending.release()
        return f"sent {sent}"

    @app.task(name=SYNC_HOST_TASK, send_events=False, **options)
    def sync_host(host_id: str) -> str:
        """Read one host's list, and make the rows true."""
        try:
            return process.parts.syncs.run_if_room(UUID(host_id))
        except DatabaseUnavailableError as error:
            log.warning("database unavailable", error=error.for_operators())
            return DATABASE_AWAY
