"""What a worker process keeps an eye on by itself, and the threads for it."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

import structlog
from celery import bootsteps
from celery.signals import task_prerun
from kombu import Exchange, Queue

from shared.broker import DISPATCH_TASK, HOUSEKEEPING_QUEUE, STOPS_QUEUE
from workers.dispatcher import run_round
from workers.heartbeat import Heartbeat
from workers.leaving import Leaving, is_told_to_end
from workers.metrics_server import serve_metrics
from workers.ticks import Ticks


if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.parts import WorkerParts

log = structlog.get_logger(__name__)


def watch_over(worker: Any, parts: WorkerParts) -> None:
    """Begin to watch a worker process: before it consumes, so that its start is watched too.

    Parameters
    ----------
    worker
        A `celery.apps.worker.Worker` with its `-Q` applied. Any: the stubs take its pool for the
        bootstep of that name.
    parts
        What the process has.
    """
    settings = parts.settings
    parts.syncs.fit_into(int(worker.concurrency))
    parts.metrics.watch_pool(worker.pool)
    serve_metrics(parts.metrics.registry, settings)
    queues = worker.app.amqp.queues
    # Not the node's name: two workers of one name would answer each other's heartbeats.
    own = f"heartbeat.{uuid4()}"
    queue = queues.select_add(
        Queue(
            own,
            routing_key=own,
            no_ack=queues[STOPS_QUEUE].no_ack,
            # Whatever is in it when this process is gone goes by itself.
            expires=settings.heartbeat_timeout,
        )
    )
    # `select_add` puts it behind the exchange of the other queues, and that binding would stay in
    # the broker for each process that ever ran. Messages are sent past exchanges anyway.
    queue.exchange = Exchange("")

    def is_stopping() -> bool:
        return bool(worker.blueprint.state != bootsteps.RUN)  # type: ignore[attr-defined] # not in the stubs

    heartbeat = Heartbeat(
        settings,
        send=lambda: parts.broker.send_heartbeat(own),
        pool=worker.pool,
        is_stopping=is_stopping,
        end=os._exit,
    )
    task_prerun.connect(heartbeat.note_work, weak=False)
    repeat(heartbeat.step, every=settings.heartbeat_interval, name="heartbeat")
    leaving = Leaving(worker.pool, is_told=is_told_to_end, end=os._exit)
    repeat(leaving.step, every=1.0, name="leaving")
    if HOUSEKEEPING_QUEUE in queues.consume_from:
        ticks = Ticks(
            lambda: run_round(parts.engine, parts.broker, parts.settings, parts.metrics),
            is_stopping=is_stopping,
        )
        task_prerun.connect(ticks.note, sender=worker.app.tasks[DISPATCH_TASK], weak=False)
        repeat(ticks.step, every=settings.dispatch_interval, name="ticks")


def repeat(step: Callable[[], None], *, every: float, name: str) -> None:
    """Call `step` every so many seconds in a thread of its own, while the process lives."""

    def run() -> NoReturn:
        while True:
            time.sleep(every)
            try:
                step()
            except Exception:
                log.exception("watching broke; it goes on", watch=name)

    threading.Thread(target=run, name=name, daemon=True).start()
