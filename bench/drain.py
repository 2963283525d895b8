"""Figure 3: how many stops one worker process carries out, and what CPU time each takes.

`python -m bench.drain` hands 1,500 stops on ten hosts, which take 20 ms for every answer, to one
worker process of each side in turns. Each worker has carried out 200 stops before. The time is that
from the first message to the last row that says `succeeded`.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import psutil
import psycopg
import typer

from bench.figure import Figure, median_of, ratio_of
from bench.ground import running_ground
from bench.sides.bare_loop import BareLoop
from bench.sides.cvmstop import Cvmstop
from bench.sides.dramatiq_side import Dramatiq
from bench.sides.procrastinate_side import Procrastinate
from bench.sides.side import last_lines, running_worker
from bench.sides.stock.side import Stock
from bench.sides.taskiq_side import Taskiq


if TYPE_CHECKING:
    from psycopg.rows import TupleRow

    from bench.figure import Value
    from bench.ground import Ground
    from bench.sides.side import Side

PATIENCE = 90.0
"""Seconds that a side gets for one round's stops."""

OURS = "cvmstop"
BARE = "bare loop"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is done."""

    rounds: int
    stops: int
    """Of each round's timed part; a multiple of 50."""
    warm_up: int
    """Before it; a multiple of 50."""


WHOLE = Size(rounds=3, stops=1_500, warm_up=200)
SMALL = Size(rounds=1, stops=100, warm_up=50)


@dataclass(frozen=True, kw_only=True)
class Drained:
    """One round of one side."""

    stops_per_second: float
    worker: float
    """CPU time of the worker process and its children for each stop, in milliseconds."""
    hosts: float
    """CPU time of the hosts for each stop, in milliseconds."""
    postgresql: float
    """CPU time of the whole database server for each stop, in milliseconds."""


def make_sides() -> list[Side]:
    """Make every side, in the order in which they take turns."""
    return [
        BareLoop(),
        Cvmstop(),
        Cvmstop(flower=True),
        Stock(),
        Dramatiq(),
        Taskiq(),
        Procrastinate(),
    ]


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process and its children: of those that ended, as far as it waited for them."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += sum(each.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def find_postmaster(connection: psycopg.Connection[TupleRow]) -> psutil.Process:
    """Find the process that all of PostgreSQL's are children of."""
    parent = psutil.Process(connection.info.backend_pid).parent()
    assert parent is not None  # noqa: S101 - a backend always has one
    return parent


def drain(ground: Ground, side: Side, size: Size) -> Drained:
    """Have one round's stops carried out by a fresh worker; ends the program if one is not."""
    ground.reset()
    with (
        psycopg.connect(ground.database_url, autocommit=True) as connection,
        running_worker(ground, side) as worker,
    ):
        side.enqueue(ground, ground.accept(0, size.warm_up))
        _wait_for_succeeded(ground, connection, side, worker, size.warm_up)
        stops = ground.accept(size.warm_up, size.stops)
        watched = [worker, ground.hosts.process, find_postmaster(connection)]
        before = [cpu_seconds(process) for process in watched]
        began = time.time()
        side.enqueue(ground, stops)
        _wait_for_succeeded(ground, connection, side, worker, size.warm_up + size.stops)
        took = [
            (cpu_seconds(process) - earlier) / size.stops * 1000
            for process, earlier in zip(watched, before, strict=True)
        ]
        last = connection.execute(
            "SELECT extract(epoch FROM max(finished_at))::float8 FROM stop_tasks"
        ).fetchone()
    assert last is not None  # noqa: S101 - an aggregate always gives a row
    return Drained(
        stops_per_second=size.stops / (last[0] - began),
        worker=took[0],
        hosts=took[1],
        postgresql=took[2],
    )


def _wait_for_succeeded(
    ground: Ground,
    connection: psycopg.Connection[TupleRow],
    side: Side,
    worker: psutil.Process,
    stops: int,
) -> None:
    end = time.monotonic() + PATIENCE
    counts: dict[str, int] = {}
    while time.monotonic() < end and worker.status() != psutil.STATUS_ZOMBIE:
        rows = connection.execute("SELECT state, count(*) FROM stop_tasks GROUP BY state")
        counts = {str(state): int(count) for state, count in rows}
        if counts == {"succeeded": stops}:
            return
        if counts.get("failed"):
            break
        time.sleep(0.1)
    sys.exit(f"{side.name} did not carry out {stops} stops: {counts}\n{last_lines(ground, side)}")


def measure(*, small: bool) -> Figure:
    """Measure every side in turns."""
    size = SMALL if small else WHOLE
    rounds: dict[str, list[Drained]] = defaultdict(list)
    sides = make_sides()
    with running_ground(cvms=size.warm_up + size.stops) as ground:
        for number in range(size.rounds):
            for side in sides:
                typer.echo(f"drain, round {number + 1} of {size.rounds}: {side.name}", err=True)
                rounds[side.name].append(drain(ground, side, size))
    return Figure(
        number=3,
        title="Drain",
        how=(
            f"{size.stops:,} stops on 10 hosts that take 20 ms for an answer, cap 32, one worker"
            f" process; {size.rounds} rounds in turns."
        ),
        values=_values(rounds),
    )


def _values(rounds: dict[str, list[Drained]]) -> list[Value]:
    speeds = {name: [each.stops_per_second for each in found] for name, found in rounds.items()}
    costs = {name: [each.worker for each in found] for name, found in rounds.items()}
    others = [Stock.name, Dramatiq.name, Taskiq.name, Procrastinate.name]
    best = max(others, key=lambda name: median_of(name, speeds[name], "stops/s").value)
    return [
        *(median_of(name, speeds[name], "stops/s") for name in rounds),
        *(median_of(f"{name}, CPU", costs[name], "ms") for name in rounds),
        *(
            median_of(f"{name}, CPU of the hosts", [each.hosts for each in found], "ms")
            for name, found in rounds.items()
        ),
        *(
            median_of(f"{name}, CPU of PostgreSQL", [each.postgresql for each in found], "ms")
            for name, found in rounds.items()
        ),
        ratio_of("CPU: cvmstop / bare loop", costs[OURS], costs[BARE], at_most=1.5),
        ratio_of(f"speed: cvmstop / {best}", speeds[OURS], speeds[best], at_least=1.0),
    ]


def main(
    *, small: Annotated[bool, typer.Option("--small", help="A smoke test: few stops.")] = False
) -> None:
    """Measure, and print the figure."""
    measure(small=small).show()


if __name__ == "__main__":
    typer.run(main)
