"""cvmstop's own worker, with and without Flower attached."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from bench.sides.side import CONCURRENCY, Side, has_blocked_client
from bench.waiting import listens
from shared.broker import Broker, make_celery
from shared.models.batches import MAX_BATCH
from tests.support.ports import free_port


if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.ground import Ground
    from shared.models.turns import DueStop

CELERY = [sys.executable, "-m", "celery", "-A", "workers.app"]


class Cvmstop(Side):
    """The worker of the README; sent to as the API sends, a batch in one trip.

    Parameters
    ----------
    flower
        Whether it emits events, and a Flower takes them.
    """

    def __init__(self, *, flower: bool = False) -> None:
        self.name = "cvmstop, Flower" if flower else "cvmstop"
        self._flower_port = free_port() if flower else None

    def command(self, ground: Ground) -> list[str]:
        """Give Celery's command."""
        del ground
        options = ["-Q", "stops", "-n", "bench@%h", "-c", str(CONCURRENCY)]
        events = [] if self._flower_port is None else ["-E"]
        return [*CELERY, "worker", *options, "--without-gossip", "--without-mingle", *events]

    def environment(self, ground: Ground) -> dict[str, str]:
        """Give cvmstop's settings, and Flower's one."""
        return {**ground.environment, "FLOWER_BASIC_AUTH": "user:password"}

    def companions(self, ground: Ground) -> list[list[str]]:
        """Give Flower's command, if it is to be there."""
        del ground
        if self._flower_port is None:
            return []
        return [[*CELERY, "flower", "--address=127.0.0.1", f"--port={self._flower_port}"]]

    def is_ready(self, ground: Ground) -> bool:
        """Whether the worker waits for messages, and Flower listens."""
        return has_blocked_client(ground) and (
            self._flower_port is None or listens(self._flower_port)
        )

    def enqueue(self, ground: Ground, stops: Sequence[DueStop]) -> None:
        """Send as the API does: 50 in one trip."""
        broker = Broker(make_celery(ground.settings))
        for start in range(0, len(stops), MAX_BATCH):
            broker.send_stops(stops[start : start + MAX_BATCH])
        broker.close()
