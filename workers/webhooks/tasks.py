"""The Celery task of webhooks: a thin shell, as those of `workers.tasks`."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any

import structlog

from shared.broker import WEBHOOKS_TASK
from shared.exceptions import DatabaseUnavailableError
from workers.webhooks.round import run_round


if TYPE_CHECKING:
    from celery import Celery

    from workers.parts import WorkerProcess

log = structlog.get_logger(__name__)

DATABASE_AWAY = "database unavailable: the next round goes on"
"""Result of a round that found no database, or lost it."""

ROUND_UNDER_WAY = "a round is under way in this process"
"""Result of a round that left the work to another one."""


def register_webhook_task(app: Celery, process: WorkerProcess, options: dict[str, Any]) -> None:
    """Register it under the name that beat uses, with the options of every task.

    Without events: in Flower they would push out what people look for.
    """
    running = Lock()

    @app.task(name=WEBHOOKS_TASK, send_events=False, **options)
    def webhooks() -> str:
        """Write events down for their endpoints, and begin to send what is due."""
        parts = process.parts
        # Messages that piled up come together, and would take every slot from the dispatcher.
        if not running.acquire(blocking=False):
            return ROUND_UNDER_WAY
        try:
            begun = run_round(parts.engine, parts.webhooks, parts.metrics)
        except DatabaseUnavailableError as error:
            log.warning("database unavailable", error=error.for_operators())
            return DATABASE_AWAY
        finally:
            running.release()
        return f"began {begun}"
