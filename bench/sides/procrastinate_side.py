"""procrastinate in the same PostgreSQL as the rows: PsycopgConnector, jobs deferred by the batch.

Its plain functions run in the threads of asyncio's own pool, which has a handful of them unless it
is told otherwise; here it has as many as every side has turns.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import psycopg
from procrastinate import App, SyncPsycopgConnector

from bench.sides.side import Side
from shared.models.batches import MAX_BATCH


if TYPE_CHECKING:
    from collections.abc import Sequence

    from procrastinate.types import JSONDict

    from bench.ground import Ground
    from shared.models.turns import DueStop

TASK = "stop"
QUEUE = "stops"


def defer(app: App, stops: Sequence[DueStop]) -> None:
    """Defer a batch in one statement."""
    jobs: list[JSONDict] = [{"stop_task_id": str(stop.stop_task_id)} for stop in stops]
    app.configure_task(TASK, queue=QUEUE).batch_defer(*jobs)


class Procrastinate(Side):
    """One procrastinate worker process with threads."""

    name = "procrastinate"

    def command(self, ground: Ground) -> list[str]:
        """Give the command of our program: its own command cannot size asyncio's pool."""
        del ground
        return [sys.executable, "-m", "bench.sides.procrastinate_worker"]

    def prepare(self, ground: Ground) -> None:
        """Apply its schema, or forget its jobs."""
        with psycopg.connect(ground.database_url) as connection:
            found = connection.execute("SELECT to_regclass('procrastinate_jobs')").fetchone()
        if found == (None,):
            with _open(ground) as app:
                app.schema_manager.apply_schema()
        ground.execute("TRUNCATE procrastinate_jobs CASCADE")

    def enqueue(self, ground: Ground, stops: Sequence[DueStop]) -> None:
        """Defer 50 at once, as they are accepted."""
        with _open(ground) as app:
            for start in range(0, len(stops), MAX_BATCH):
                defer(app, stops[start : start + MAX_BATCH])


def _open(ground: Ground) -> App:
    return App(connector=SyncPsycopgConnector(conninfo=ground.database_url)).open()
