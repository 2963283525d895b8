"""A procrastinate worker: `python -m bench.sides.procrastinate_worker`."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from procrastinate import App, PsycopgConnector

from bench.sides.procrastinate_side import QUEUE, TASK, defer
from bench.sides.side import CONCURRENCY
from bench.sides.turns import WORKER, make_parts
from shared.settings import DatabaseSettings
from workers.stops import work_on_stop


async def serve(settings: DatabaseSettings) -> None:
    """Serve until told to end."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(CONCURRENCY))
    connector = PsycopgConnector(
        conninfo=settings.database_url.get_secret_value(), max_size=settings.database_pool_size
    )
    app = App(connector=connector)
    parts = make_parts(lambda stops: defer(app, stops))

    @app.task(name=TASK, queue=QUEUE)
    def stop(stop_task_id: str) -> None:
        """Take one turn with one stop."""
        work_on_stop(parts, UUID(stop_task_id), worker=WORKER)

    async with app.open_async():
        await app.run_worker_async(queues=[QUEUE], concurrency=CONCURRENCY)


if __name__ == "__main__":
    asyncio.run(serve(DatabaseSettings.load()))
