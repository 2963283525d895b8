"""One process of the stack: how it is started, so that it never outlives us unseen."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CHECKOUT = Path(__file__).parent.parent.parent
"""Working directory of every process: `api`, `workers` and `cli` can be imported from it."""

PR_SET_PDEATHSIG = 1
"""Asks Linux to send a signal when the parent dies. Source: prctl(2), `linux/prctl.h`."""


@dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    """What to run, and how to know that it is ready."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    """The whole of it."""
    log_file: Path
    is_ready: Callable[[], bool]
    """Answers within about half a second."""
    stop_signal: signal.Signals = signal.SIGTERM
    grace: float = 5.0
    """Seconds that it gets to end after `stop_signal`, before it is killed."""
    ends_after: tuple[str, ...] = ()
    """Processes that must have ended before this one is told to."""


def start(spec: ProcessSpec) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own: Ctrl-C in the terminal reaches only us.

    Where the system can do it (Linux), the process gets its stop signal also when we die.

    Raises
    ------
    OSError
        The program is not there or may not be run.
    """
    with spec.log_file.open("ab") as log:
        return subprocess.Popen(
            spec.command,
            cwd=CHECKOUT,
            env=spec.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_signal_when_parent_dies(spec.stop_signal),  # noqa: PLW1509 - see there
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with everything in its session's group, and take note of its end."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _signal_when_parent_dies(number: signal.Signals) -> Callable[[], None] | None:
    """Give what the child is to do between fork and exec.

    It makes two system calls and takes no lock, so that threads of ours could not hang it. Not a
    program in between: that would take 20 ms of Python for each process.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask
