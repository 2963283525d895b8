"""dramatiq on Valkey: its RedisBroker with the middleware it comes with, and no results.

One process (its documentation adds processes for CPU, threads for waiting) with as many threads as
every side has turns.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker

from bench.sides.side import CONCURRENCY, Side


if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.ground import Ground
    from shared.models.turns import DueStop

ACTOR = "stop"
QUEUE = "stops"

CONNECTIONS = 2 * CONCURRENCY
"""Its threads acknowledge all at once; redis-py gives up at 100 unless told otherwise."""


def make_broker(url: str) -> RedisBroker:
    """Make the broker that both ends use."""
    make: Callable[..., RedisBroker] = RedisBroker  # which has no annotations of its own
    broker = make(url=f"{url}?max_connections={CONNECTIONS}")
    broker.declare_queue(QUEUE)
    return broker


def send(broker: RedisBroker, stops: Sequence[DueStop]) -> None:
    """Enqueue one message after the other: it has no batch."""
    for stop in stops:
        message: Message[str] = Message(
            queue_name=QUEUE,
            actor_name=ACTOR,
            args=(str(stop.stop_task_id),),
            kwargs={},
            options={},
        )
        broker.enqueue(message)


class Dramatiq(Side):
    """One dramatiq process with threads."""

    name = "dramatiq"

    def command(self, ground: Ground) -> list[str]:
        """Give dramatiq's command."""
        del ground
        options = ["--processes", "1", "--threads", str(CONCURRENCY)]
        return [sys.executable, "-m", "dramatiq", "bench.sides.dramatiq_worker", *options]

    def enqueue(self, ground: Ground, stops: Sequence[DueStop]) -> None:
        """Send one after the other."""
        broker = make_broker(ground.broker_url)
        send(broker, stops)
        broker.close()
