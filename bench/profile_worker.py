"""Where a worker's time goes: what holds the interpreter's lock while it drains.

`python -m bench.profile_worker` lets py-spy look at a worker 200 times a second while it carries
out 3,000 stops (as in figure 3), and prints the share of each part. Linux lets a process be looked
at by its parent's user where `ptrace` is allowed; elsewhere run it as root.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.ground import running_ground
from bench.sides.cvmstop import Cvmstop
from bench.sides.side import running_worker
from bench.waiting import wait_until


if TYPE_CHECKING:
    from bench.ground import Ground

WARM_UP = 200
SAMPLES = 200
"""Looks a second; more would slow down what is looked at."""

PARTS = (
    ("Celery: asking for messages", "on_poll_start"),
    ("Celery: taking a message, up to handing it to a thread", "on_readable"),
    ("Celery: the rest of its loop", "asynloop"),
    ("the host: three exchanges", "_take_turn"),
    ("settle", "_settle"),
    ("claim", "claim_stop"),
    ("the rest of a turn: pool of connections, log", "work_on_stop"),
    ("Celery: running a task", "trace_task"),
)
"""Names of parts, and the function whose callees they are; the first that fits counts."""


def record(ground: Ground, stops: int, pid: int, file: Path) -> None:
    """Look at a process while it carries out stops."""
    accepted = ground.accept(WARM_UP, stops)
    spy = [str(Path(sys.executable).with_name("py-spy")), "record", "--gil", "--nonblocking"]
    options = ["--format", "raw", "--rate", str(SAMPLES), "--output", str(file), "--pid", str(pid)]
    with subprocess.Popen(
        [*spy, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as spying:
        time.sleep(1)  # it tells nobody when it has begun
        Cvmstop().enqueue(ground, accepted)
        wait_until(lambda: _succeeded(ground) == WARM_UP + stops, "the stops", interval=0.1)
        spying.send_signal(signal.SIGINT)  # it writes what it saw, and ends


def _succeeded(ground: Ground) -> int:
    return ground.count("stop_tasks WHERE state = 'succeeded'")


def shares(file: Path) -> Counter[str]:
    """Count the samples of each part."""
    found = Counter[str]()
    for line in file.read_text().splitlines():
        stack, _, samples = line.rpartition(" ")
        name = next((part for part, function in PARTS if function in stack), "everything else")
        found[name] += int(samples)
    return found


def main(
    stops: Annotated[int, typer.Option(min=50, help="Stops to look at, a multiple of 50.")] = 3_000,
) -> None:
    """Record, and print a line for each part."""
    with running_ground(cvms=WARM_UP + stops) as ground:
        ground.reset()
        side = Cvmstop()
        with running_worker(ground, side) as worker:
            side.enqueue(ground, ground.accept(0, WARM_UP))
            wait_until(lambda: _succeeded(ground) == WARM_UP, "the first stops")
            file = ground.directory / "profile"
            record(ground, stops, worker.pid, file)
            found = shares(file)
    total = found.total()
    for name, samples in found.most_common():
        typer.echo(f"{samples / total:6.1%}  {name}")
    typer.echo(f"of {total} samples with the interpreter's lock")


if __name__ == "__main__":
    typer.run(main)
