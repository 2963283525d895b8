"""What a worker wants of a VM host, whatever the host speaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol


if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.models.states import PowerState
    from shared.models.turns import Exchange


@dataclass(frozen=True, kw_only=True)
class CallBounds:
    """What one call may cost, and where what it sent and got is written down.

    A call ends, one way or the other, by `deadline`; its own time-outs (settings) may end it
    earlier.
    """

    deadline: float
    """`time.monotonic()` by which the call must have ended; past it nothing is sent."""
    record: Callable[[Exchange], None]
    """Called once for each request, with its answer or the error instead."""


@dataclass(frozen=True, kw_only=True)
class HostVm:
    """One VM as a host lists it."""

    vm_uuid: str
    name: str
    power_state: PowerState


@dataclass(frozen=True, kw_only=True)
class HostVersion:
    """What answers at a host's address."""

    version: str
    revision: str


class Driver(Protocol):
    """One host's driver; used by many threads at once, and kept for the life of the process.

    Every method raises `workers.drivers.errors.HostError` when the host does not do what was
    asked; the error carries its code and its fate.
    """

    def power_state(self, vm_uuid: str, bounds: CallBounds) -> PowerState:
        """Ask what state a VM is in; `ABSENT` for one that the host does not know."""
        ...

    def force_stop(self, vm_uuid: str, bounds: CallBounds) -> None:
        """Kill a VM, like pulling its plug. Returning means *kill requested*, not *down*."""
        ...

    def seconds_of_doubt(self, vm_uuid: str, bounds: CallBounds) -> float:
        """Say when a VM that was just brought down is to be looked at again; 0 for never.

        For hosts on which something else may start it again at once. Raises nothing of a host.
        """
        ...

    def list_vms(self, bounds: CallBounds) -> list[HostVm]:
        """List every VM of the host."""
        ...

    def ping(self, bounds: CallBounds) -> HostVersion:
        """Check the address, TLS and the credentials, without touching any VM."""
        ...

    def close(self) -> None:
        """Close kept connections."""
        ...
