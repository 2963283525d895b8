"""One VM's state machine: `started` flag, process and removal give its status.

Times are those of a monotonic clock that is passed in. Nothing runs in the background: what has
become due since is worked out when the VM is looked at. Source of the rules: dstack
`vmm/src/app.rs`, `vmm/src/app/vm_info.rs` and `supervisor/src/process.rs`.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING

from workers.simulated_host.behaviour import Behaviour, VmStatus


if TYPE_CHECKING:
    from collections.abc import Callable


class RefusedError(Exception):
    """The VM is in no state for what was asked. The text is dstack-vmm's."""


class Vm:
    """One VM.

    Parameters
    ----------
    status
        The state it begins in.
    behaviour
        How long things take; may be replaced at any time.
    launched
        Whether the supervisor has ever had a process for it.
    clock
        Seconds of a monotonic clock.
    """

    def __init__(
        self,
        *,
        status: VmStatus,
        behaviour: Behaviour,
        clock: Callable[[], float],
        launched: bool = True,
    ) -> None:
        self.behaviour = behaviour
        self.kills = 0
        self.undone = 0
        self.comebacks = 0
        self._gone = False
        self._clock = clock
        self._launched = launched or status is not VmStatus.STOPPED
        self.place(status)

    def place(self, status: VmStatus) -> None:
        """Put the VM into a state at once, whatever was under way."""
        now = self._clock()
        self.started = status in {VmStatus.RUNNING, VmStatus.EXITED}
        self.process = status in {VmStatus.RUNNING, VmStatus.STOPPING, VmStatus.REMOVING}
        self._launched = self._launched or self.process
        self.launched_at = now if self._launched else None
        self.exited_at = now if self._launched and not self.process else None
        self._killed_at: float | None = None
        self._powered_off_at: float | None = None
        self._started_at: float | None = None
        self._back_at: float | None = None
        self._removed_at: float | None = None
        if status is VmStatus.REMOVING:
            self.remove()

    def status(self) -> VmStatus:
        """Tell the status now. The control endpoint's look, of which the VM takes no notice."""
        self._catch_up()
        if self._removed_at is not None:
            return VmStatus.REMOVING
        if self.started:
            return VmStatus.RUNNING if self.process else VmStatus.EXITED
        return VmStatus.STOPPING if self.process else VmStatus.STOPPED

    @property
    def gone(self) -> bool:
        """Whether the VM has been removed for good."""
        self._catch_up()
        return self._gone

    def look(self) -> VmStatus:
        """Tell the status now to a client: a VM that comes back does so after this look."""
        status = self.status()
        due = self.comebacks < self.behaviour.comebacks and self._back_at is None
        if status is VmStatus.STOPPED and due:
            self.comebacks += 1
            self._back_at = self._clock() + self.behaviour.comeback_after
        return status

    def stop(self, *, refuse_unlaunched: bool = False) -> float:
        """Carry out StopVm: `started` becomes false, and a process is killed.

        Parameters
        ----------
        refuse_unlaunched
            Whether a VM that never had a process is an error (up to 0.5.11). `started` is
            written all the same.

        Returns
        -------
        float
            Seconds for which the call blocks.

        Raises
        ------
        RefusedError
            A kill is under way already, or there never was a process.
        """
        self._catch_up()
        self.started = False
        blocks = self.behaviour.blocking_stop_seconds if self.process else 0.0
        if self.process:
            self._kill()
        elif refuse_unlaunched and not self._launched:
            msg = "Server returned error: Process not found"
            raise RefusedError(msg)
        if self.undone < self.behaviour.undone_stops:
            self.undone += 1
            self._back_at = self._clock() + self.behaviour.undone_after
        return blocks

    def start(self) -> None:
        """Carry out StartVm: `started` becomes true at once, the process comes later."""
        self._catch_up()
        if self._removed_at is not None:
            msg = "VM is being removed"
            raise RefusedError(msg)
        self.started = True
        if not self.process and self._started_at is None:
            self._started_at = self._clock()

    def shut_down(self) -> None:
        """Carry out ShutdownVm: the guest powers itself off in its own time."""
        self._catch_up()
        if not self.process:
            msg = "guest agent is not reachable"
            raise RefusedError(msg)
        self.started = False
        self._powered_off_at = self._clock()

    def remove(self) -> None:
        """Carry out RemoveVm: the process is killed, and the VM gone some time after it."""
        self._catch_up()
        if self._removed_at is None:
            self._removed_at = self._clock()
        if self.process and self._killed_at is None:
            self._kill()

    def _kill(self) -> None:
        if self._killed_at is not None:
            msg = "Server returned error: Missing kill tx for process"
            raise RefusedError(msg)
        self._killed_at = self._clock()
        self.kills += 1

    def _catch_up(self) -> None:
        now = self._clock()
        while (change := self._next_change()) is not None and change[0] <= now:
            at, apply = change
            apply(at)

    def _next_change(self) -> tuple[float, Callable[[float], None]] | None:
        """Tell what becomes due next, and when, by the behaviour as it is now."""
        how = self.behaviour
        changes: list[tuple[float, Callable[[float], None]]] = []
        if self.process and self._killed_at is not None and not how.never_stops:
            takes = max(how.stop_seconds, how.blocking_stop_seconds)
            changes.append((self._killed_at + takes, self._end))
        if self.process and self._powered_off_at is not None:
            changes.append((self._powered_off_at + how.shutdown_seconds, self._end))
        if self._started_at is not None:
            changes.append((self._started_at + how.start_seconds, self._launch))
        if self._back_at is not None:
            changes.append((self._back_at, self._come_back))
        if self._removed_at is not None and not self.process and not self._gone:
            since = max(self._removed_at, self.exited_at or self._removed_at)
            changes.append((since + how.remove_seconds, self._vanish))
        restart = how.auto_restart_seconds
        if restart is not None and self.exited_at is not None and self._is_left_exited:
            changes.append((self.exited_at + restart, self._launch))
        return min(changes, key=itemgetter(0), default=None)

    @property
    def _is_left_exited(self) -> bool:
        under_way = self._started_at is not None or self._removed_at is not None
        return self.started and not self.process and not under_way

    def _end(self, at: float) -> None:
        self.process = False
        self.exited_at = at
        self._killed_at = self._powered_off_at = None

    def _launch(self, at: float) -> None:
        self.process = self._launched = True
        self.launched_at = at
        self.exited_at = None
        self._killed_at = self._powered_off_at = self._started_at = None

    def _come_back(self, at: float) -> None:
        self._back_at = None
        self.started = True
        self._launch(at)

    def _vanish(self, _at: float) -> None:
        self._gone = True
