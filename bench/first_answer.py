"""Figure 7, first answer: how long `cvmstop --help` computes, and `cvmstop up` takes to be up.

`python -m bench.first_answer` calls both some times, each `up` with a new data directory: it makes
a PostgreSQL, migrates it, and starts seven processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from bench.figure import Figure, median_of
from bench.waiting import wait_until


HELP_ROUNDS = 10
UP_ROUNDS = 5

HELP_LIMIT = 0.3
"""Seconds of CPU: what a person takes for at once."""

UP_LIMIT = 6.0
"""Seconds until everything is ready."""

END_PATIENCE = 60.0
"""Seconds that a stack gets to end."""

CVMSTOP = (sys.executable, "-m", "cli")


def help_seconds() -> float:
    """Call `cvmstop --help`; gives the CPU time that it used."""
    process = subprocess.Popen([*CVMSTOP, "--help"], stdout=subprocess.DEVNULL)
    # Of this one child: those before it are in `getrusage` too.
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit("cvmstop --help failed")
    return used.ru_utime + used.ru_stime


def up_seconds() -> float:
    """Start a stack where none was, until it says that all is ready; and end it."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "stack"
        ready = root / "stack.json"
        began = time.monotonic()
        with (
            (Path(directory) / "up.log").open("wb") as log,
            subprocess.Popen(
                [*CVMSTOP, "up", "--data-dir", str(root)], stdout=log, stderr=log
            ) as process,
        ):
            try:
                wait_until(
                    lambda: ready.exists() or process.poll() is not None,
                    "a stack that is up",
                )
                took = time.monotonic() - began
                if not ready.exists():
                    sys.exit((Path(directory) / "up.log").read_text())
            finally:
                process.terminate()
                process.wait(END_PATIENCE)
    return took


def measure(*, small: bool = False) -> Figure:
    """Measure figure 7; `small` is one round of each, to see that it works."""
    help_seconds()  # the first one reads the files from the disk
    helps = [help_seconds() for _ in range(1 if small else HELP_ROUNDS)]
    ups = [up_seconds() for _ in range(1 if small else UP_ROUNDS)]
    return Figure(
        number=7,
        title="First answer",
        how=(
            f"`cvmstop --help`: CPU time of its process, {len(helps)} times."
            f" `cvmstop up` in a new directory: until stack.json is there, {len(ups)} times"
        ),
        values=[
            median_of("cvmstop --help, CPU", helps, "s", at_most=HELP_LIMIT),
            median_of("cvmstop up", ups, "s", at_most=UP_LIMIT),
        ],
    )


def main(
    *, small: Annotated[bool, typer.Option("--small", help="Only see that it works.")] = False
) -> None:
    """Measure, and print a line for each value."""
    measure(small=small).show()


if __name__ == "__main__":
    typer.run(main)
