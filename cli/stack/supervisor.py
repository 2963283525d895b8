"""Keeps processes running: starts them, waits until they are ready, starts again what dies.

One thread does everything, by looking at all processes in turn (`tick`). `mirakuru`, which the
tests use, was tried for this and does not fit: it waits for one process at a time, where eleven
start side by side here; with a thread for each, the system would take the end of that thread for
our death (`cli.stack.child`); it can add to the environment, but keep nothing out of it; and to
end a process it reads the environment of every process of the machine.
"""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cli.stack import child
from cli.stack.log_tail import last_line
from shared.exceptions import CvmstopError, StackError


if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Collection, Iterable, Iterator
    from types import FrameType

    from cli.stack.child import ProcessSpec

TICK = 0.05
"""Seconds between two looks at the processes."""

START_TIMEOUT = 60.0
"""Seconds within which a process must be ready for the first time; a slow machine takes ten."""

RESTART_DELAY = 0.5
"""Seconds before a process that died soon after its start is started again; doubles each time."""

RESTART_DELAY_MAX = 8.0
"""Longest such wait."""

SOON = 10.0
"""Seconds; a process that lived longer is started again at once."""


class ToldToStopError(CvmstopError):
    """Somebody wants us to end: Ctrl-C, or a signal."""

    slug = "told_to_stop"


@dataclass(kw_only=True)
class _Child:
    spec: ProcessSpec
    process: subprocess.Popen[bytes]
    started_at: float
    ready: bool = False
    was_ready: bool = False
    early_deaths: int = 0
    restart_at: float | None = None


class Supervisor:
    """Supervises processes.

    Parameters
    ----------
    report
        Takes one line for a person, for each event.
    on_change
        Called after a process was started, the first time or again.
    """

    def __init__(self, *, report: Callable[[str], None], on_change: Callable[[], None]) -> None:
        self._report = report
        self._on_change = on_change
        self._children: dict[str, _Child] = {}
        self._told = 0

    @contextmanager
    def minding_signals(self) -> Iterator[None]:
        """Within the block SIGINT, SIGTERM and SIGHUP end all in order; a second, at once."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup it stays ignored
            numbers.append(signal.SIGHUP)

        def note(_number: int, _frame: FrameType | None) -> None:
            self._told += 1

        before = {number: signal.signal(number, note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def specs(self) -> dict[str, ProcessSpec]:
        """What is supervised, by name."""
        return {name: each.spec for name, each in self._children.items()}

    @property
    def pids(self) -> dict[str, int]:
        """Number of each process, by name; of one that has just died, its last."""
        return {name: each.process.pid for name, each in self._children.items()}

    def start(self, specs: Iterable[ProcessSpec]) -> None:
        """Start processes; do not wait for them.

        Raises
        ------
        StackError
            A program cannot be run.
        """
        for spec in specs:
            try:
                process = child.start(spec)
            except OSError as error:
                msg = f"{spec.name} cannot be started: {error}"
                raise StackError(msg) from None
            self._children[spec.name] = _Child(
                spec=spec, process=process, started_at=time.monotonic()
            )
        self._on_change()

    def wait_until_ready(self, names: Collection[str] | None = None) -> None:
        """Wait until processes are ready; all of them when none are named.

        Raises
        ------
        StackError
            One of them ended before, or takes too long; the message has what it said last.
        ToldToStopError
            Somebody wants us to end.
        """
        wanted = [self._children[name] for name in names or self._children]
        deadline = time.monotonic() + START_TIMEOUT
        while late := [each for each in wanted if not each.ready]:
            if time.monotonic() > deadline:
                raise StackError(_said_last("is not ready yet, and is given up", late[0].spec))
            time.sleep(TICK)
            self.tick()

    def run(self) -> None:
        """Supervise until somebody wants us to end.

        Raises
        ------
        ToldToStopError
            Then.
        """
        while True:
            self.tick()
            time.sleep(TICK)

    def tick(self) -> None:
        """Look at every process once.

        Raises
        ------
        StackError
            One ended before it was ready for the first time.
        ToldToStopError
            Somebody wants us to end.
        """
        if self._told:
            raise ToldToStopError
        for each in self._children.values():
            if each.restart_at is not None:
                if time.monotonic() >= each.restart_at:
                    self._start_again(each)
            elif (status := each.process.poll()) is not None:
                self._note_death(each, status)
            elif not each.ready and each.spec.is_ready():
                self._report(f"{each.spec.name} ready" + (" again" if each.was_ready else ""))
                each.ready = each.was_ready = True

    def stop(self) -> None:
        """End every process, in order; kill what does not end in its time."""
        waiting = {name: each for name, each in self._children.items() if _lives(each)}
        told_at: dict[str, float] = {}
        while waiting:
            for name, each in list(waiting.items()):
                if each.process.poll() is not None:
                    del waiting[name]
                elif name not in told_at:
                    if waiting.keys().isdisjoint(each.spec.ends_after):
                        told_at[name] = time.monotonic()
                        with suppress(ProcessLookupError):
                            each.process.send_signal(each.spec.stop_signal)
                elif self._told > 1 or time.monotonic() > told_at[name] + each.spec.grace:
                    self._report(f"{name} did not end in time and is killed")
                    child.kill(each.process)
            time.sleep(TICK)

    def _note_death(self, each: _Child, status: int) -> None:
        spec = each.spec
        how = f"signal {-status}" if status < 0 else f"status {status}"
        if not each.was_ready:
            raise StackError(_said_last(f"ended before it was ready ({how})", spec))
        lived = time.monotonic() - each.started_at
        each.early_deaths = each.early_deaths + 1 if lived < SOON else 0
        delay = 0.0
        if each.early_deaths > 1:
            delay = min(RESTART_DELAY * 2 ** (each.early_deaths - 2), RESTART_DELAY_MAX)
        each.ready = False
        each.restart_at = time.monotonic() + delay
        self._report(
            f"{spec.name} died ({how}); it is started again"
            + (f" in {delay:g} s, its log is {spec.log_file}" if delay else "")
        )

    def _start_again(self, each: _Child) -> None:
        try:
            each.process = child.start(each.spec)
        except OSError as error:
            each.restart_at = time.monotonic() + RESTART_DELAY_MAX
            self._report(f"{each.spec.name} cannot be started: {error}")
            return
        each.started_at = time.monotonic()
        each.restart_at = None
        self._on_change()


def _lives(each: _Child) -> bool:
    return each.restart_at is None and each.process.poll() is None


def _said_last(what: str, spec: ProcessSpec) -> str:
    return f"{spec.name} {what}; it said: {last_line(spec.log_file) or 'nothing'}"
