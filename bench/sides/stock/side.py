"""The stock worker as a side.

Celery's own pool is prefork, one process for each turn at once; for a fair fight it runs on
Celery's threads, as many as every side has.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from celery import Celery

from bench.sides.side import CONCURRENCY, Side, has_blocked_client


if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.ground import Ground
    from shared.models.turns import DueStop

TASK = "bench.sides.stock.tasks.stop_cvm"


class Stock(Side):
    """One Celery worker with its usual settings."""

    name = "stock"

    def command(self, ground: Ground) -> list[str]:
        """Give Celery's command."""
        del ground
        celery = [sys.executable, "-m", "celery", "-A", "bench.sides.stock.tasks:celery"]
        return [*celery, "worker", "--pool=threads", "-c", str(CONCURRENCY), "-n", "stock@%h"]

    def is_ready(self, ground: Ground) -> bool:
        """Whether it waits for messages."""
        return has_blocked_client(ground)

    def enqueue(self, ground: Ground, stops: Sequence[DueStop]) -> None:
        """Send one after the other, as `.delay()` does."""
        with Celery("stock", broker=ground.broker_url, set_as_current=False) as app:
            for stop in stops:
                app.send_task(TASK, (str(stop.stop_task_id),), ignore_result=True)
