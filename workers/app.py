"""The Celery app: `celery -A workers.app worker`, `… beat`, `… flower`.

`app` is made when it is first asked for, so that importing this module needs no settings.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from celery.signals import celeryd_after_setup, setup_logging, worker_init, worker_shutdown

from shared.broker import (
    DISPATCH_TASK,
    HOUSEKEEPING_QUEUE,
    PURGE_TASK,
    SYNC_DUE_TASK,
    WEBHOOKS_TASK,
    make_celery,
)
from shared.exceptions import CvmstopError
from shared.settings import BrokerSettings, Settings
from shared.telemetry import configure_logging
from workers.parts import WorkerProcess
from workers.tasks import register_tasks
from workers.watching import watch_over


if TYPE_CHECKING:
    from celery import Celery

DEFAULT_CONCURRENCY = 200
"""Turns at once in one worker process.

A turn mostly waits for its host, and a waiting thread costs little (a worker of 2,000 sleeping
threads was measured at 134 MB). Hosts that accept a connection and then say nothing hold their caps
until the first time-outs open their breakers: with a cap of 8, 25 of them at once fit in.
"""

PURGE_INTERVAL = 60.0
"""Seconds between two rounds of the purge: each deletes what came of age since, and a backlog."""

SYNC_ROUND_INTERVAL = 1.0
"""Seconds between two looks for hosts whose list is due. So often, or those that came due meanwhile
would all come to the workers at once, and find no place.
"""


WEBHOOKS_INTERVAL = 1.0
"""Seconds between two rounds of webhooks: that much later an endpoint hears of a stop."""


def make_schedule(settings: BrokerSettings) -> dict[str, dict[str, Any]]:
    """Say what beat sends, and how often (s), as Celery's `beat_schedule` has it."""
    return {
        task.rpartition(".")[2]: {
            "task": task,
            "schedule": interval,
            "options": {"queue": HOUSEKEEPING_QUEUE},
        }
        for task, interval in (
            (DISPATCH_TASK, settings.dispatch_interval),
            (PURGE_TASK, PURGE_INTERVAL),
            (WEBHOOKS_TASK, WEBHOOKS_INTERVAL),
            (SYNC_DUE_TASK, SYNC_ROUND_INTERVAL if settings.sync_interval else None),
        )
        if interval is not None
    }


def create_app(settings: BrokerSettings) -> Celery:
    """Make the workers' Celery app. The settings' reasons: docs/decisions/0002-celery-settings.md.

    Parameters
    ----------
    settings
        The broker's part of the settings: beat and Flower need no more. A worker loads the rest
        when it starts, and ends there with one line if it cannot work.
    """
    app = make_celery(
        settings,
        worker_pool="workers.pool:WakingThreadPool",
        worker_consumer="workers.consumer:PromptConsumer",
        worker_concurrency=DEFAULT_CONCURRENCY,
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Redis that is full, or whose disk is, answers with errors: as good as away, and no reason
        # to end, which is what a worker does without this.
        broker_channel_error_retry=True,
        # In memory: an interval schedule has nothing to keep, and a file would need a place.
        beat_scheduler="celery.beat:Scheduler",
        beat_schedule=make_schedule(settings),
    )
    process = WorkerProcess()
    register_tasks(app, process)

    def open_process(**_: Any) -> None:
        configure_logging(settings)  # Celery asks for it only later
        try:
            process.open(app, Settings.load())
        except CvmstopError as error:
            sys.exit(f"cvmstop worker: {error.for_operators()}")

    def watch_process(instance: Any, **_: Any) -> None:
        watch_over(instance, process.parts)

    def close_process(**_: Any) -> None:
        process.close()

    def log_our_way(**_: Any) -> None:
        configure_logging(settings)

    # Celery keeps receivers by weak reference unless told otherwise.
    setup_logging.connect(log_our_way, weak=False)
    worker_init.connect(open_process, weak=False)
    celeryd_after_setup.connect(watch_process, weak=False)
    worker_shutdown.connect(close_process, weak=False)
    return app


def __getattr__(name: str) -> Any:
    """Make `app` when Celery's command line asks for it."""
    if name != "app":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    try:
        app = create_app(BrokerSettings.load())
    except CvmstopError as error:
        sys.exit(f"cvmstop: {error}")
    globals()["app"] = app
    return app
