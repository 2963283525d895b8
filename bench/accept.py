"""Figures 1 and 2: how long one request takes to accept, and how many a loaded machine accepts.

`python -m bench.accept` posts batches of 50 CVMs to one API process, cvmstop's and the stock one.
Figure 1 has one client, and compares with a floor: the same rows and messages without any web
framework or check. Figure 2 has eight clients while a worker process drains.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from bench.figure import Figure, median_of, ratio_of
from bench.ground import cvm_id, running_ground
from bench.posting import API_KEY, Client, make_body
from bench.sides.apis import OURS, STOCK, running_api
from bench.sides.floor import open_floor
from bench.sides.side import running_worker
from shared.models.batches import MAX_BATCH


if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.ground import Ground
    from bench.sides.apis import Api

FLOOR = "floor"

CLIENTS = 8

MAX_FROM_FLOOR = 2.0
MIN_STOCK = 5.0
MIN_LOADED = 3.0


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is done."""

    warm_up: int
    """Posts of each side before those that count."""
    posts: int
    """Posts of each side that count."""
    rounds: int
    """Of each side under load."""
    seconds: float
    """Each such round."""
    backlog: int
    """Stops that the worker has to do before each such round."""
    cvms: int
    """How many there are to be stopped in each such round, beside the backlog."""


WHOLE = Size(warm_up=10, posts=30, rounds=3, seconds=8.0, backlog=2_000, cvms=80_000)
SMALL = Size(warm_up=2, posts=3, rounds=1, seconds=1.0, backlog=100, cvms=4_000)


def measure_accept(*, small: bool) -> Figure:
    """Measure figure 1: every side once in each round, each with CVMs that nobody had before."""
    size = SMALL if small else WHOLE
    rounds: dict[str, list[float]] = defaultdict(list)
    posts = size.warm_up + size.posts
    with running_ground(cvms=3 * posts * MAX_BATCH) as ground, ExitStack() as stack:
        floor = stack.enter_context(open_floor(ground))
        sides: dict[str, Callable[[int], float]] = {
            FLOOR: lambda first: floor.accept(_ids_from(first))
        }
        for api in (STOCK, OURS):
            client = Client(stack.enter_context(running_api(ground, api)), ground.api_key)
            stack.callback(client.close)
            sides[api.name] = _posting(client)
        first = 0
        for number in range(posts):
            for name, accept in sides.items():
                took = accept(first)
                first += MAX_BATCH
                if number >= size.warm_up:
                    rounds[name].append(took * 1000)
        _check(ground, first)
    ours = rounds[OURS.name]
    return Figure(
        number=1,
        title="Accept",
        how=(
            f"One POST of {MAX_BATCH} CVMs at a time, one API process; {size.posts} rounds in"
            " turns, no worker. Floor: the same rows and messages in one statement and one trip."
        ),
        values=[
            *(median_of(name, found, "ms") for name, found in rounds.items()),
            ratio_of("cvmstop / floor", ours, rounds[FLOOR], at_most=MAX_FROM_FLOOR),
            ratio_of("stock / cvmstop", rounds[STOCK.name], ours, at_least=MIN_STOCK),
        ],
    )


def _ids_from(first: int) -> list[str]:
    return [cvm_id(number) for number in range(first, first + MAX_BATCH)]


def _posting(client: Client) -> Callable[[int], float]:
    return lambda first: client.post(make_body(first))


def _check(ground: Ground, accepted: int) -> None:
    """End the program unless every stop that was accepted is written down."""
    tasks = ground.count("stop_tasks")
    flipped = ground.count("cvms WHERE in_progress")
    if (tasks, flipped) != (accepted, accepted):
        sys.exit(f"{accepted} were accepted: {tasks} stop tasks, {flipped} CVMs in progress")


def measure_accept_loaded(*, small: bool) -> Figure:
    """Measure figure 2: both APIs in turns, each with a worker of its own kind."""
    size = SMALL if small else WHOLE
    speeds: dict[str, list[float]] = defaultdict(list)
    slowest: dict[str, list[float]] = defaultdict(list)
    with running_ground(cvms=size.backlog + size.cvms) as ground:
        for number in range(size.rounds):
            for api in (STOCK, OURS):
                typer.echo(
                    f"accept, round {number + 1} of {size.rounds}: {api.name}, loaded", err=True
                )
                took, latencies = _post_loaded(ground, api, size)
                speeds[api.name].append(len(latencies) / took)
                place = min(len(latencies) - 1, int(len(latencies) * 0.99))
                slowest[api.name].append(sorted(latencies)[place] * 1000)
    return Figure(
        number=2,
        title="Accept, loaded",
        how=(
            f"{CLIENTS} clients post {MAX_BATCH} CVMs at a time for {size.seconds:g} s to one API"
            f" process while one worker process drains; {size.rounds} rounds in turns."
        ),
        values=[
            *(median_of(name, found, "posts/s") for name, found in speeds.items()),
            *(median_of(f"{name}, p99", found, "ms") for name, found in slowest.items()),
            ratio_of("cvmstop / stock", speeds[OURS.name], speeds[STOCK.name], at_least=MIN_LOADED),
        ],
    )


def _post_loaded(ground: Ground, api: Api, size: Size) -> tuple[float, list[float]]:
    """Post to one API under load; gives the seconds in all, and those of each post."""
    ground.reset()
    options = {
        "--first": size.backlog,
        "--last": size.backlog + size.cvms,
        "--clients": CLIENTS,
        "--seconds": size.seconds,
    }
    arguments = [text for name, value in options.items() for text in (name, str(value))]
    with running_api(ground, api) as port, running_worker(ground, api.worker):
        api.worker.enqueue(ground, ground.accept(0, size.backlog))
        done = subprocess.run(
            [sys.executable, "-m", "bench.posting", "--port", str(port), *arguments],
            env={**os.environ, API_KEY: ground.api_key},
            stdout=subprocess.PIPE,
            check=False,
        )
        if done.returncode != 0:
            sys.exit(f"{api.name}: its clients failed")
        if ground.count("stop_tasks WHERE state = 'succeeded'") == 0:
            sys.exit(f"{api.name}: its worker has not drained")
    seen = json.loads(done.stdout)
    return seen["seconds"], seen["latencies"]


def main(
    *, small: Annotated[bool, typer.Option("--small", help="A smoke test: few posts.")] = False
) -> None:
    """Measure both, and print the figures."""
    for measure in (measure_accept, measure_accept_loaded):
        measure(small=small).show()


if __name__ == "__main__":
    typer.run(main)
