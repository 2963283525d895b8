"""One process of the cluster, which a test may kill, freeze, end in order, or start again."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil

from cli.stack import child
from tests.support.waiting import eventually


if TYPE_CHECKING:
    import subprocess

    from cli.stack.child import ProcessSpec

START_TIMEOUT = 60.0
"""Seconds within which a process must be ready; generous, as all of them share two cores."""

RESTART_DELAY = 1.0
"""Seconds before a process that ended by itself is started again, as a supervisor would."""


class Part:
    """A process with a name.

    Parameters
    ----------
    spec
        What to run. It may be replaced while the process does not run.
    """

    def __init__(self, spec: ProcessSpec) -> None:
        self.spec = spec
        self.usual = spec
        """What it runs when no test wants it otherwise."""
        self.process: subprocess.Popen[bytes] | None = None
        self.wanted = False
        """Whether it should run: one that does not was struck, and is left alone."""
        self.own_ends = 0
        """How often it ended though nobody made it."""
        self._ended_at: float | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} has not been started"
        return self.process.pid

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start it; does not wait."""
        self.process = child.start(self.spec)
        self.wanted = True
        self._ended_at = None

    def run_within(self, module: str, *arguments: str) -> None:
        """Have its command run by a module from now on: `python -m module arguments… command…`."""
        python, _, *rest = self.usual.command
        self.spec = replace(self.usual, command=[python, "-m", module, *arguments, *rest])

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            assert self.runs, f"{self.name} ended:\n{self.log()[-3000:]}"
            return self.spec.is_ready()

        eventually(ready, timeout=START_TIMEOUT)

    def kill(self) -> None:
        """Kill it without warning."""
        self.wanted = False
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def tell_to_end(self) -> None:
        """Ask it to end in order; does not wait."""
        self.wanted = False
        os.kill(self.pid, self.spec.stop_signal)

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for its end; gives the status, a negative signal number if it was killed."""
        assert self.process is not None
        return self.process.wait(timeout)

    def freeze(self) -> None:
        """Stop it and its children where they are."""
        for each in self._family():
            each.suspend()

    def is_frozen(self) -> bool:
        return self.runs and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

    def thaw(self) -> None:
        """Let it go on."""
        for each in self._family():
            with suppress(psutil.NoSuchProcess):
                each.resume()

    def _family(self) -> list[psutil.Process]:
        me = psutil.Process(self.pid)
        return [me, *me.children(recursive=True)]

    def mind(self) -> None:
        """Start it again if it ended by itself, a moment later."""
        if not self.wanted or self.runs:
            return
        if self._ended_at is None:
            self._ended_at = time.monotonic()
            # Nobody kills itself: that was a test's failpoint, of which it is not told at once.
            self.own_ends += self.wait() != -signal.SIGKILL
        elif time.monotonic() > self._ended_at + RESTART_DELAY:
            self.start()

    def log(self) -> str:
        """Give what it has written, in all its lives."""
        return self.spec.log_file.read_text(errors="replace")

    def end(self) -> None:
        """End it for good, whatever state it is in."""
        self.wanted = False
        if self.process is not None:
            child.kill(self.process)
