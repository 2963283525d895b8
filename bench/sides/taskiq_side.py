"""taskiq on Valkey: the RedisStreamBroker that taskiq-redis's own README begins with, no results.

The task is a plain function, which taskiq runs in its pool of threads, in one worker process.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from taskiq.kicker import AsyncKicker
from taskiq_redis import RedisStreamBroker

from bench.sides.side import CONCURRENCY, Side, has_blocked_client
from shared.models.batches import MAX_BATCH


if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.ground import Ground
    from shared.models.turns import DueStop

TASK = "stop"


def make_broker(url: str) -> RedisStreamBroker:
    """Make the broker that both ends use."""
    return RedisStreamBroker(url=url)


async def send(broker: RedisStreamBroker, stops: Sequence[DueStop]) -> None:
    """Send a batch at once: it has no batch of its own, but its sends may run side by side."""
    for start in range(0, len(stops), MAX_BATCH):
        kicker: AsyncKicker[[str], None] = AsyncKicker(TASK, broker, {})
        chunk = stops[start : start + MAX_BATCH]
        await asyncio.gather(*(kicker.kiq(str(stop.stop_task_id)) for stop in chunk))


class Taskiq(Side):
    """One taskiq worker process with threads."""

    name = "taskiq"

    def command(self, ground: Ground) -> list[str]:
        """Give taskiq's command."""
        del ground
        return [
            *(sys.executable, "-m", "taskiq", "worker", "bench.sides.taskiq_worker:broker"),
            *("--workers", "1", "--max-threadpool-threads", str(CONCURRENCY)),
            *("--max-async-tasks", str(CONCURRENCY), "--log-level", "WARNING"),
        ]

    def is_ready(self, ground: Ground) -> bool:
        """Whether it reads: what is sent before that is never seen by a new consumer group."""
        return has_blocked_client(ground)

    def enqueue(self, ground: Ground, stops: Sequence[DueStop]) -> None:
        """Send 50 side by side."""
        asyncio.run(self._enqueue(ground, stops))

    async def _enqueue(self, ground: Ground, stops: Sequence[DueStop]) -> None:
        broker = make_broker(ground.broker_url)
        await broker.startup()
        await send(broker, stops)
        await broker.shutdown()
