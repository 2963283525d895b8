"""The Celery tasks: thin shells around plain functions."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from shared.broker import (
    DISPATCH_TASK,
    HEARTBEAT_TASK,
    PURGE_TASK,
    STOP_TASK,
    takes_without_acknowledging,
)
from shared.exceptions import DatabaseUnavailableError
from workers.dispatcher import run_round
from workers.purge import run_purge
from workers.stops import work_on_stop
from workers.sync_tasks import register_sync_tasks
from workers.webhooks.tasks import register_webhook_task


if TYPE_CHECKING:
    from celery import Celery, Task

    from workers.parts import WorkerProcess

log = structlog.get_logger(__name__)

REQUEST = "workers.requests:UnacknowledgedRequest"
"""Celery's `Task.Request`: what a worker makes of a message."""

DATABASE_AWAY = "database unavailable: the dispatcher will send it again"
"""Result of a task that found no database. Not an error of the task: nothing is lost by it."""

PURGE_DATABASE_AWAY = "database unavailable: the next round goes on"
"""Result of a purge that found no database, or lost it on the way."""

PURGE_UNDER_WAY = "a purge is under way in this process"
"""Result of a purge that left the work to another one."""


def register_tasks(app: Celery, process: WorkerProcess) -> None:
    """Register the tasks under the names that senders use."""
    options: dict[str, Any] = {"Request": REQUEST} if takes_without_acknowledging(app) else {}

    @app.task(name=STOP_TASK, bind=True, **options)
    def stop(self: Task[Any, Any], stop_task_id: str, *, request_id: str | None = None) -> str:
        """Take one turn with one stop."""
        with structlog.contextvars.bound_contextvars(
            stop_task_id=stop_task_id, request_id=request_id
        ):
            try:
                return work_on_stop(
                    process.parts, UUID(stop_task_id), worker=str(self.request.hostname)
                )
            except DatabaseUnavailableError as error:
                log.warning("database unavailable", error=error.for_operators())
                return DATABASE_AWAY

    @app.task(name=DISPATCH_TASK, **options)
    def dispatch() -> str:
        """Run one round of the dispatcher."""
        parts = process.parts
        try:
            done = run_round(parts.engine, parts.broker, parts.settings, parts.metrics)
        except DatabaseUnavailableError as error:
            log.warning("database unavailable", error=error.for_operators())
            return DATABASE_AWAY
        return f"sent {done.sent}, released {done.released}, failed {done.failed}"

    purging = Lock()

    @app.task(name=PURGE_TASK, **options)
    def purge() -> str:
        """Run one round of the purge."""
        parts = process.parts
        # Messages that piled up come together, and would take every slot from the dispatcher.
        if not purging.acquire(blocking=False):
            return PURGE_UNDER_WAY
        try:
            done = run_purge(parts.engine, parts.settings)
        except DatabaseUnavailableError as error:
            log.warning("database unavailable", error=error.for_operators())
            return PURGE_DATABASE_AWAY
        finally:
            purging.release()
        return f"deleted {done}"

    # No events: in Flower it would push out what people look for.
    @app.task(name=HEARTBEAT_TASK, send_events=False, **options)
    def heartbeat() -> None:
        """Do nothing: that it begins is what counts (`workers.heartbeat`)."""

    register_sync_tasks(app, process, options)
    register_webhook_task(app, process, options)
