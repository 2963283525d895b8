"""Measures how much a libvirt daemon that is stopped (SIGSTOP) delays stops on another host.

`python -m bench.hung_libvirtd` starts a whole stack and two libvirt daemons with 50 real QEMU
machines each (`make libvirt` installs what that needs). It stops the 50 of the first host alone and
again while the second daemon is stopped and has 50 stops to do. It prints both times, their ratio,
what the second host's stops wait for, and how long they take once its daemon goes on.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tests.support.libvirt_host import libvirt_host
from tests.system.libvirt.yard import Yard
from tests.system.running_stack import started_up


if TYPE_CHECKING:
    from collections.abc import Sequence

STOPS = 50
"""On each host."""

GOAL = 1.2
"""Most that the ratio may be."""


def time_stops(yard: Yard, cvm_ids: Sequence[str]) -> float:
    """Post the stops of some CVMs; gives the seconds until all have succeeded."""
    began = time.monotonic()
    batch, _ = yard.stack.batch_stop(cvm_ids)
    wait_for(yard, batch)
    return time.monotonic() - began


def wait_for(yard: Yard, batch: str) -> None:
    """Wait until all stops of a batch have succeeded; ends the program if one has not."""
    tasks = yard.stack.wait_until_ended(batch)
    if {task["state"] for task in tasks} != {"succeeded"}:
        sys.exit(f"not all succeeded: {[task for task in tasks if task['state'] != 'succeeded']}")


def main() -> None:
    """Measure, and print a line for each figure."""
    with (
        tempfile.TemporaryDirectory() as directory,
        libvirt_host() as good,
        libvirt_host() as hung,
        started_up(Path(directory) / "stack", output=Path(directory) / "up.log") as (stack, _),
    ):
        yard = Yard(stack, Path(directory))
        yard.add_host("good", good.uri)
        yard.add_host("hung", hung.uri)
        machines = good.start_machines(STOPS)
        cvms = yard.add_cvms("good", machines)
        others = yard.add_cvms("hung", hung.start_machines(STOPS))
        alone = time_stops(yard, cvms)
        good.start_again(machines)
        hung.signal_libvirtd(signal.SIGSTOP)
        slow, _ = stack.batch_stop(others)
        beside = time_stops(yard, cvms)
        reasons = stack.rows(
            "SELECT state, error_code, count(*) FROM stop_tasks JOIN vm_hosts"
            " ON vm_hosts.id = vm_host_id WHERE vm_hosts.name = 'hung' GROUP BY 1, 2"
        )
        last_error = stack.rows("SELECT last_error FROM vm_hosts WHERE name = 'hung'")[0][0]
        hung.signal_libvirtd(signal.SIGCONT)
        began = time.monotonic()
        wait_for(yard, slow)
        drained = time.monotonic() - began
    ratio = beside / alone
    typer.echo(f"{STOPS} stops alone:                       {alone:6.1f} s")
    typer.echo(f"{STOPS} stops beside a stopped daemon:     {beside:6.1f} s  ({ratio:.2f} x)")
    typer.echo(f"the goal: at most {GOAL} x")
    typer.echo(f"the stopped daemon's {STOPS}, meanwhile: {reasons}: {last_error}")
    typer.echo(f"and once it goes on:                  {drained:6.1f} s")


if __name__ == "__main__":
    typer.run(main)
