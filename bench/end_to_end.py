"""Figure 4, end to end: from the first request to the last machine that was seen down.

`python -m bench.end_to_end` runs an API, two workers, a dispatcher and beat on 100 hosts of cap 8
that take 20 ms for each answer, posts 10,000 stops in 200 requests, and looks into the rows. The
bound is what nothing could be faster than here: the hosts at their caps, or the machine's CPU doing
the same stops with nothing between, whichever takes longer.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import psycopg
import typer

from bench.figure import Figure, Value, median_of
from bench.ground import cvm_id, running_ground
from bench.posting import post_all
from bench.programs import running_programs
from bench.sides.bare_loop import BareLoop
from bench.sides.floor import open_floor
from bench.sides.side import running_worker
from bench.waiting import wait_until
from shared.models.batches import MAX_BATCH
from shared.models.states import OPEN_STATES
from shared.models.turns import DueStop


if TYPE_CHECKING:
    from bench.ground import Ground

STOPS = 10_000
HOSTS = 100
CAP = 8
LATENCY = 0.02
"""Seconds that a host takes for each answer."""

CALLS = 3
"""Of one stop: GetInfo, StopVm, GetInfo."""

WORKERS = 2
ROUNDS = 3
PATIENCE = 600.0
LIMIT = 1.25
"""Most that all of cvmstop may add to the bound."""


def hosts_bound(stops: int) -> float:
    """Give the seconds that hosts take which always have as many stops as they may."""
    return stops / HOSTS / CAP * CALLS * LATENCY


def cpu_bound(ground: Ground, stops: int) -> float:
    """Measure the seconds of the same stops with nothing between.

    Accepted by the floor, one batch after the other, and then carried out by as many bare loops as
    there are workers.
    """
    ground.reset()
    loops = [BareLoop(number) for number in range(1, WORKERS + 1)]
    with (
        ExitStack() as stack,
        psycopg.connect(ground.database_url, autocommit=True) as connection,
    ):
        for loop in loops:
            stack.enter_context(running_worker(ground, loop))
        floor = stack.enter_context(open_floor(ground))
        time.sleep(2)  # importing and connecting is not what is measured, and tells nobody its end
        began = time.perf_counter()
        for first in range(0, stops, MAX_BATCH):
            floor.accept([cvm_id(number) for number in range(first, first + MAX_BATCH)])
        rows = connection.execute(
            "SELECT stop_tasks.id, request_id, hash_id, vm_hosts.name FROM stop_tasks"
            " JOIN cvms ON cvms.id = cvm_id JOIN vm_hosts ON vm_hosts.id = stop_tasks.vm_host_id"
            " ORDER BY cvm_id"
        )
        accepted = [
            DueStop(stop_task_id=stop, request_id=request_id, cvm_id=cvm, host=host)
            for stop, request_id, cvm, host in rows
        ]
        for number, loop in enumerate(loops):
            loop.enqueue(ground, accepted[number::WORKERS])
        succeeded = "stop_tasks WHERE state = 'succeeded'"
        wait_until(lambda: ground.count(succeeded) == stops, "the bare loops", patience=PATIENCE)
        return time.perf_counter() - began


def drain_seconds(ground: Ground, url: str, stops: int) -> float:
    """Post all stops and wait until the last has succeeded; by the rows, in the database's time."""
    with psycopg.connect(ground.database_url, autocommit=True) as connection:
        began = connection.execute("SELECT clock_timestamp()").fetchone()
        post_all(url, ground.api_key, 0, stops)
        is_open = "stop_tasks WHERE state IN ({})".format(
            ", ".join(f"'{state}'" for state in OPEN_STATES)
        )
        wait_until(
            lambda: ground.count(is_open) == 0, "the last stop", patience=PATIENCE, interval=0.2
        )
        assert began is not None  # noqa: S101 - a SELECT of one row
        ended = connection.execute(
            "SELECT count(*), extract(epoch FROM max(finished_at) - %s) FROM stop_tasks"
            " WHERE state = 'succeeded'",
            began,
        ).fetchone()
    assert ended is not None  # noqa: S101 - as above
    if ended[0] != stops:
        sys.exit(f"only {ended[0]} of {stops} succeeded")
    return float(ended[1])


def measure(*, small: bool = False) -> Figure:
    """Measure figure 4; `small` is a twentieth of the stops, once, to see that it works."""
    stops = STOPS // 20 if small else STOPS
    with running_ground(hosts=HOSTS, cap=CAP, cvms=stops, latency=LATENCY) as ground:
        by_hosts, by_cpu = hosts_bound(stops), cpu_bound(ground, stops)
        rounds = []
        with running_programs(ground, workers=WORKERS) as programs:
            for _ in range(1 if small else ROUNDS):
                ground.reset()
                rounds.append(drain_seconds(ground, programs.url, stops))
    bounds = {"hosts' caps": by_hosts, "CPU": by_cpu}
    which = max(bounds, key=lambda name: bounds[name])
    values = [median_of("cvmstop", rounds, "s")]
    values.append(Value(name="bound: hosts' caps", value=by_hosts, unit="s"))
    values.append(Value(name="bound: CPU (floor, bare loops)", value=by_cpu, unit="s"))
    values.append(
        median_of(
            f"cvmstop / {which}", [each / bounds[which] for each in rounds], "x", at_most=LIMIT
        )
    )
    return Figure(
        number=4,
        title="End to end",
        how=(
            f"{stops:,} stops in {stops // 50} requests of two clients, on {HOSTS} hosts of cap"
            f" {CAP} that take {LATENCY * 1000:.0f} ms for each of {CALLS} answers, by {WORKERS}"
            " workers; from the first request to the last stop that succeeded."
            f" The bound that applies: {which}"
        ),
        values=values,
    )


def main(
    *, small: Annotated[bool, typer.Option("--small", help="Only see that it works.")] = False
) -> None:
    """Measure, and print a line for each value."""
    measure(small=small).show()


if __name__ == "__main__":
    typer.run(main)
