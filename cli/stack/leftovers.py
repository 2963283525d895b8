"""Processes of a stack that was killed: which they were, and how they are ended.

Most systems end them by themselves (see `cli.stack.child`); this is for the others.
"""

from __future__ import annotations

import json
import signal
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import psutil

from cli.stack.private_files import write_private


if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

GRACE = 10.0
"""Seconds that a process gets to end before it is killed."""

SAME_START = 2.0
"""Seconds by which the start of one process may seem to differ.

It is worked out from the time of boot, which clocks being set move. No system gives a process's
number away again so soon.
"""


@dataclass(frozen=True, kw_only=True)
class Started:
    """A process that was started: its number alone would not tell it from a later one."""

    name: str
    pid: int
    created: float
    """When, by the system's own account."""
    stop_signal: int


def describe(name: str, pid: int, stop_signal: signal.Signals) -> Started | None:
    """Describe a process; None when it has ended already."""
    try:
        created = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None
    return Started(name=name, pid=pid, created=created, stop_signal=int(stop_signal))


def record(path: Path, processes: Iterable[Started]) -> None:
    """Write down which processes run, for whoever comes after us."""
    write_private(path, json.dumps([asdict(process) for process in processes]) + "\n")


def end_recorded(path: Path) -> list[str]:
    """End the processes that `record` wrote down and that still run; gives their names.

    A file that cannot be read (it was cut off) names none.
    """
    found: list[tuple[Started, psutil.Process]] = []
    with suppress(OSError, ValueError, TypeError):
        for entry in json.loads(path.read_text()):
            started = Started(**entry)
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(started.pid)
                if abs(process.create_time() - started.created) < SAME_START:
                    found.append((started, process))
    for started, process in found:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(started.stop_signal)
    _, alive = psutil.wait_procs([process for _, process in found], timeout=GRACE)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=GRACE)
    path.unlink(missing_ok=True)
    return [started.name for started, _ in found]
