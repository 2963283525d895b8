"""A VM host as a model: what it says and does, without a network, on a clock that a test moves.

The simulated dstack-vmm is the faithful one. This one is for tests that decide themselves when each
call happens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from shared.models.errors import ErrorCode
from shared.models.states import PowerState
from shared.models.turns import Exchange
from workers.drivers.errors import (
    FinalHostError,
    HostRefusedError,
    HostSilentError,
    HostUnreachableError,
    OutcomeUnknownError,
    OutOfTimeError,
)


if TYPE_CHECKING:
    from tests.support.moved_clock import MovedClock
    from workers.drivers.errors import HostError
    from workers.drivers.protocol import CallBounds

NEVER = 10**9
"""Seconds that a VM may take to die: it is `stopping` for ever."""


class Mood(StrEnum):
    """How a host takes what it is asked."""

    WELL = "well"
    REFUSES = "refuses connections"
    SILENT = "answers nothing"
    BROKEN = "answers everything with an error"
    FORBIDS = "refuses the credentials"
    STOP_BROKEN = "answers StopVm with an error, and does nothing"
    STOP_HANGS = "answers nothing to StopVm, and does nothing"
    STOP_CUT = "carries StopVm out, and the answer is lost"


@dataclass
class ModelVm:
    """One VM."""

    state: PowerState = PowerState.RUNNING
    dies_after: int = 0
    """Seconds from a StopVm until it is stopped."""
    killed_at: float = 0.0
    """When a StopVm was last carried out."""


@dataclass
class ModelHost:
    """One host.

    Attributes
    ----------
    clock
        Says when a killed VM is down; moved by calls that hang.
    hangs
        Seconds that a call takes which gets no answer.
    """

    clock: MovedClock
    hangs: int
    vms: dict[str, ModelVm] = field(default_factory=dict)
    mood: Mood = Mood.WELL

    def look(self, vm_uuid: str) -> PowerState:
        """Say what state a VM is in, at this moment."""
        vm = self.vms[vm_uuid]
        is_killed = vm.state is PowerState.STOPPING and vm.killed_at > 0
        if is_killed and self.clock.monotonic() >= vm.killed_at + vm.dies_after:
            vm.state = PowerState.STOPPED
        return vm.state

    def power_state(self, vm_uuid: str, bounds: CallBounds) -> PowerState:
        """Answer `GetInfo`, as the driver gives it.

        Raises
        ------
        HostError
            By the mood.
        """
        self._spend(bounds, is_silent=self.mood is Mood.SILENT)
        error = _error_of_question(self.mood)
        state = self.look(vm_uuid)
        _record(bounds, "GetInfo", error or state)
        if error:
            raise error
        return state

    def force_stop(self, vm_uuid: str, bounds: CallBounds) -> None:
        """Carry `StopVm` out.

        Raises
        ------
        HostError
            By the mood; for a VM whose kill is under way, and for one that the host does not know.
        """
        self._spend(bounds, is_silent=self.mood in {Mood.SILENT, Mood.STOP_HANGS})
        error = _error_of_stop(self.mood)
        if self.mood in {Mood.WELL, Mood.STOP_CUT}:
            error = self._kill(vm_uuid) or error
        _record(bounds, "StopVm", error or "200")
        if error:
            raise error

    def _spend(self, bounds: CallBounds, *, is_silent: bool) -> None:
        left = bounds.deadline - self.clock.monotonic()
        if left <= 0:
            msg = "no time left"
            raise OutOfTimeError(ErrorCode.HOST_TIMEOUT, msg)
        if is_silent:
            self.clock.advance(max(1, int(min(left, self.hangs))))

    def _kill(self, vm_uuid: str) -> HostError | None:
        vm = self.vms[vm_uuid]
        state = self.look(vm_uuid)
        if state is PowerState.ABSENT:
            return HostRefusedError(ErrorCode.HOST_ERROR, "VM not found")
        is_repeated = state is PowerState.STOPPING and vm.killed_at > 0
        if state in {PowerState.RUNNING, PowerState.STOPPING}:
            vm.state = PowerState.STOPPING
            vm.killed_at = vm.killed_at if is_repeated else self.clock.monotonic()
        elif state is PowerState.EXITED:
            vm.state = PowerState.STOPPED
        if is_repeated:
            return HostRefusedError(ErrorCode.HOST_ERROR, "Missing kill tx")
        return None


def _error_of_question(mood: Mood) -> HostError | None:
    match mood:
        case Mood.REFUSES:
            return HostUnreachableError(ErrorCode.HOST_UNREACHABLE, mood)
        case Mood.SILENT:
            return HostSilentError(ErrorCode.HOST_TIMEOUT, mood)
        case Mood.BROKEN:
            return HostRefusedError(ErrorCode.HOST_ERROR, mood)
        case Mood.FORBIDS:
            return FinalHostError(ErrorCode.CREDENTIALS_REFUSED, mood)
        case Mood.WELL | Mood.STOP_BROKEN | Mood.STOP_HANGS | Mood.STOP_CUT:
            return None


def _error_of_stop(mood: Mood) -> HostError | None:
    match mood:
        case Mood.SILENT | Mood.STOP_HANGS:
            return OutcomeUnknownError(ErrorCode.HOST_TIMEOUT, mood)
        case Mood.STOP_CUT:
            return OutcomeUnknownError(ErrorCode.CONNECTION_LOST, mood)
        case Mood.STOP_BROKEN:
            return HostRefusedError(ErrorCode.HOST_ERROR, mood)
        case Mood.WELL | Mood.REFUSES | Mood.BROKEN | Mood.FORBIDS:
            return _error_of_question(mood)


def _record(bounds: CallBounds, request: str, answer: object) -> None:
    bounds.record(Exchange(request=request, answer=str(answer), seconds=0.0))
