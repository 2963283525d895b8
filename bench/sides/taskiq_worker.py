"""What `taskiq worker bench.sides.taskiq_worker:broker` serves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID

from taskiq import TaskiqEvents, TaskiqState

from bench.sides.taskiq_side import TASK, make_broker, send
from bench.sides.turns import WORKER, make_parts
from shared.settings import BrokerSettings
from workers.stops import work_on_stop


if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.models.turns import DueStop
    from workers.parts import WorkerParts

broker = make_broker(BrokerSettings.load().broker_url.get_secret_value())
opened: dict[str, WorkerParts] = {}


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_process(_: TaskiqState) -> None:
    """Wire the process; its loop sends for the threads."""
    loop = asyncio.get_running_loop()

    def send_from_thread(stops: Sequence[DueStop]) -> None:
        asyncio.run_coroutine_threadsafe(send(broker, stops), loop).result()

    opened["parts"] = make_parts(send_from_thread)


@broker.task(task_name=TASK)
def stop(stop_task_id: str) -> None:
    """Take one turn with one stop."""
    work_on_stop(opened["parts"], UUID(stop_task_id), worker=WORKER)
