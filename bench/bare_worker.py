"""A Celery worker that does nothing: what any worker with these libraries takes.

`celery -A bench.bare_worker worker`, with the broker's URL in `BENCH_BROKER_URL`. Slots, pool and
imports are those of cvmstop's worker; of cvmstop itself there is nothing in it.
"""

from __future__ import annotations

import os
import time
from importlib import import_module

from celery import Celery


BROKER_VARIABLE = "BENCH_BROKER_URL"
TASK = "bench.nothing"
QUEUE = "bench"
SLOTS = 200
"""As many as cvmstop's worker has (`workers.app.DEFAULT_CONCURRENCY`)."""

SECONDS = 0.06
"""That a task waits, as a turn waits for its host: else few threads would do for all."""

LIBRARIES = (
    "cryptography.fernet",
    "httpcore",
    "psycopg",
    "pydantic",
    "pydantic_settings",
    "redis",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.orm",
    "structlog",
    "tenacity",
)
"""What cvmstop's worker imports."""

app = Celery("bare", broker=os.environ.get(BROKER_VARIABLE), set_as_current=False)
app.conf.update(
    accept_content=["json"],
    task_serializer="json",
    task_ignore_result=True,
    task_default_queue=QUEUE,
    worker_pool="threads",
    worker_concurrency=SLOTS,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
)

for library in LIBRARIES:
    import_module(library)


@app.task(name=TASK)
def nothing() -> None:
    """Wait as a turn waits, and do nothing."""
    time.sleep(SECONDS)
