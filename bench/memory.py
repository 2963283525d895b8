"""Figure 6, memory: what an API process and a worker take, at first and after many stops.

`python -m bench.memory` runs an API and a worker on ten hosts, and stops the same CVMs again and
again, in ten steps; beside them a bare Celery worker that runs as many tasks which do nothing.
`--stops 100000` is the whole measurement; the default fits into `make bench`, within three minutes.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import psutil
import typer
from redis import Redis

from bench import bare_worker
from bench.figure import Figure, Value, median_of
from bench.ground import running_ground
from bench.posting import post_all
from bench.programs import QUIET, running_programs
from bench.running import running
from bench.waiting import wait_until
from shared.models.batches import MAX_BATCH


if TYPE_CHECKING:
    from bench.ground import Ground

STOPS = 30_000
STEPS = 10
HOSTS = 10
CAP = 32
WARM_UP = 10_000
"""Stops after which nothing may grow any more: by then every thread has run, and every connection,
cache and prepared statement is there."""

GROWTH = 1.02
"""Most that the end may be of what it was after `WARM_UP`.

Not 1: the allocator gives and takes single pages. A hundred bytes for each of the 20,000 stops
after it would be more: about 1.03 of a worker.
"""

OVER_BARE = 1.2
"""Most that a worker may take of what a bare one takes."""

PATIENCE = 300.0
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Watched:
    """One process, and what it took (MiB) at first and after each step."""

    process: psutil.Process
    resident: list[float] = field(default_factory=list)
    """RSS: with the libraries that it shares with others."""
    own: list[float] = field(default_factory=list)
    """USS: what ends with it."""

    def look(self) -> None:
        """Note what it takes now."""
        taken = self.process.memory_full_info()
        self.resident.append(taken.rss / MIB)
        self.own.append(taken.uss / MIB)

    def values(self, name: str, stops: int) -> list[Value]:
        """Give what it took, and how much it grew after `WARM_UP` (or the first step)."""
        step = stops // STEPS
        warm = max(1, min(-(-WARM_UP // step), STEPS - 1))
        values = []
        for kind, sizes in (("RSS", self.resident), ("USS", self.own)):
            values += [
                Value(name=f"{name}, {kind}, idle", value=sizes[0], unit="MiB"),
                Value(
                    name=f"{name}, {kind}, after {stops:,}",
                    value=sizes[-1],
                    unit="MiB",
                    low=min(sizes[1:]),
                    high=max(sizes[1:]),
                ),
                median_of(
                    f"{name}, {kind}, / after {warm * step:,}",
                    [sizes[-1] / sizes[warm]],
                    "x",
                    at_most=GROWTH,
                ),
            ]
        return values


def stop_many(ground: Ground, stops: int) -> tuple[Watched, Watched]:
    """Stop so many with one API and one worker; gives what those took, in this order."""
    step = stops // STEPS
    with running_programs(ground, workers=1) as programs:
        watched = [
            Watched(process=psutil.Process(pid)) for pid in (programs.api, *programs.workers)
        ]
        for done in range(0, stops + 1, step):
            if done:
                post_all(programs.url, ground.api_key, 0, step)
                wait_until(
                    lambda: ground.count("cvms WHERE in_progress") == 0,
                    "a step's stops",
                    patience=PATIENCE,
                    interval=0.1,
                )
                ground.hosts.start_all()
            for each in watched:
                each.look()
    if ground.count("stop_tasks WHERE state = 'succeeded'") != stops:
        sys.exit("not all stops have succeeded")
    api, worker = watched
    return api, worker


def run_bare(ground: Ground, tasks: int) -> Watched:
    """Run so many tasks that do nothing with a bare worker; gives what it took."""
    url = ground.broker_url
    node = f"bare@{socket.gethostname()}"
    command = [sys.executable, "-m", "celery", "-A", "bench.bare_worker", "worker"]
    options = ["-Q", bare_worker.QUEUE, "-n", node, "-l", "ERROR", *QUIET]
    environment = {**os.environ, bare_worker.BROKER_VARIABLE: url}
    app = bare_worker.app
    app.conf.update(broker_url=url)
    step = tasks // STEPS
    with (
        running(ground.directory / "bare.log", [*command, *options], environment) as process,
        Redis.from_url(url) as broker,
    ):
        wait_until(lambda: app.control.ping([node], timeout=1.0), "a bare worker that answers")
        watched = Watched(process=psutil.Process(process.pid))
        watched.look()
        with app.producer_or_acquire() as producer:
            for _ in range(STEPS):
                for _ in range(step):
                    app.send_task(bare_worker.TASK, queue=bare_worker.QUEUE, producer=producer)
                wait_until(
                    lambda: broker.llen(bare_worker.QUEUE) == 0 and broker.hlen("unacked") == 0,
                    "a step's tasks",
                    patience=PATIENCE,
                    interval=0.1,
                )
                watched.look()
    app.close()
    return watched


def measure(*, small: bool = False, stops: int = STOPS) -> Figure:
    """Measure figure 6.

    Parameters
    ----------
    small
        A thousand stops, to see that it works.
    stops
        How many; a multiple of 500.
    """
    stops = 1_000 if small else stops // (STEPS * MAX_BATCH) * STEPS * MAX_BATCH
    with running_ground(hosts=HOSTS, cap=CAP, cvms=stops // STEPS) as ground:
        api, worker = stop_many(ground, stops)
        bare = run_bare(ground, stops)
    return Figure(
        number=6,
        title="Memory",
        how=(
            f"One API process and one worker of {bare_worker.SLOTS} slots, {stops:,} stops in"
            f" {STEPS} steps; spread: over the steps. A bare Celery worker with the same pool,"
            " slots and libraries ran as many tasks that do nothing"
        ),
        values=[
            *api.values("API", stops),
            *worker.values("worker", stops),
            Value(name="bare worker, RSS", value=bare.resident[-1], unit="MiB"),
            Value(name="bare worker, USS", value=bare.own[-1], unit="MiB"),
            median_of(
                "worker / bare worker, RSS",
                [worker.resident[-1] / bare.resident[-1]],
                "x",
                at_most=OVER_BARE,
            ),
            median_of(
                "worker / bare worker, USS", [worker.own[-1] / bare.own[-1]], "x", at_most=OVER_BARE
            ),
        ],
    )


def main(
    *,
    small: Annotated[bool, typer.Option("--small", help="Only see that it works.")] = False,
    stops: Annotated[int, typer.Option(min=500, help="How many stops.")] = STOPS,
) -> None:
    """Measure, and print a line for each value."""
    measure(small=small, stops=stops).show()


if __name__ == "__main__":
    typer.run(main)
