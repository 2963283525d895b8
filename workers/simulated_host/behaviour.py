"""How a simulated host and its VMs behave: what can be set at start and while they run.

Durations are seconds. A VM's own behaviour counts only in the fields that were set for it; the
others follow the host's.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from uuid import NAMESPACE_URL, uuid5

from pydantic import BaseModel, ConfigDict, Field


Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]

VM_ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
"""What dstack-vmm 0.6 takes for a VM id."""


class FaultKind(StrEnum):
    """What a faulty answer looks like."""

    ERROR = "error"
    """pRPC's own error: 400 with `text`."""
    HTTP = "http"
    """`status` with an HTML page, as a proxy in between would answer."""
    HANG = "hang"
    """The connection is accepted and kept, and nothing ever answered."""
    CUT = "cut"
    """The connection closes in the middle of the answer's body."""
    RESET = "reset"
    """The connection closes before the first byte of the answer."""
    DRIP = "drip"
    """The whole right answer, one byte every `interval`."""
    GARBAGE = "garbage"
    """200 with a body that is no JSON."""
    HUGE = "huge"
    """200 with a body of `size` bytes."""
    UNAUTHORIZED = "unauthorized"
    """401, as if the credentials had been taken away."""


ANSWERED_BY_THE_HOST = frozenset(
    {FaultKind.CUT, FaultKind.DRIP, FaultKind.GARBAGE, FaultKind.HUGE},
)
"""Faults of the answer only: by default the request is carried out first."""


class Fault(BaseModel):
    """One fault, and when it strikes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: FaultKind
    methods: tuple[str, ...] = ()
    """Methods that it strikes; empty for all."""
    count: int | None = Field(default=None, ge=1)
    """Strikes only the next so many times; null for ever."""
    probability: float = Field(default=1.0, ge=0, le=1)
    """How likely a request is struck."""
    carried_out: bool | None = None
    """Whether the request is carried out all the same; null for what is usual of the kind."""
    text: str | None = None
    """Message of `error`; body of `http` and `garbage`."""
    status: int = Field(default=502, ge=200, le=599)
    """HTTP status of `http`."""
    interval: Seconds = 1.0
    """Between two bytes of `drip`."""
    size: int = Field(default=64, ge=1)
    """Bytes in the body of `huge`; least bytes in that of `drip` (filled up with spaces)."""

    @property
    def carries_out(self) -> bool:
        """Whether a request that it strikes is carried out."""
        if self.carried_out is None:
            return self.kind in ANSWERED_BY_THE_HOST
        return self.carried_out


class Behaviour(BaseModel):
    """What can be set for a host and for one VM alike."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    latency: Seconds = 0.0
    """Wait before a request is looked at."""
    latency_jitter: Seconds = 0.0
    """Up to so much more wait, evenly spread."""
    stop_seconds: Seconds = 1.0
    """From the kill until the process is gone: how long a VM is `stopping`."""
    blocking_stop_seconds: Seconds = 0.0
    """StopVm answers only after so long, as for a VM with a swtpm (15 s at most in 0.6.0)."""
    start_seconds: Seconds = 0.0
    """From StartVm until there is a process. A StopVm in between finds none (race 1)."""
    shutdown_seconds: Seconds = 1.0
    """How long a guest takes to power itself off after ShutdownVm."""
    remove_seconds: Seconds = 0.0
    """From the end of the process until a VM being removed is gone."""
    auto_restart_seconds: Seconds | None = None
    """An `exited` VM is started again after so long; null for never."""
    never_stops: bool = False
    """A killed process does not end while this is set."""
    undone_stops: int = Field(default=0, ge=0)
    """So many StopVm that were answered with 200 are undone by an auto-restart (race 2)."""
    undone_after: Seconds = 0.0
    """From such a StopVm until the VM runs again."""
    comebacks: int = Field(default=0, ge=0)
    """So many times the VM starts again after a request has seen it `stopped`."""
    comeback_after: Seconds = 0.0
    """From that look until the VM runs again."""
    faults: tuple[Fault, ...] = ()
    """The first that strikes counts; a VM's own come before the host's."""

    def over(self, host: Behaviour) -> Behaviour:
        """Give this VM's behaviour: its own fields where set, else the host's."""
        fields = Behaviour.model_fields
        return Behaviour.model_construct(
            **{
                name: getattr(self if name in self.model_fields_set else host, name)
                for name in fields
            }
        )


class VmBehaviour(Behaviour):
    """One VM's behaviour: only what differs from its host's."""


class HostBehaviour(Behaviour):
    """A host's behaviour, and that of its VMs where they have none of their own."""

    dead: bool = False
    """A black hole: every request is accepted and never answered."""
    version: str = Field(default="0.6.0", pattern=r"^\d+\.\d+\.\d+$")
    """dstack-vmm's version. 0.5.x asks for no credentials, takes any id, and refuses StopVm for
    a VM that was never launched."""
    revision: str = Field(default="312dc605", pattern=r"^[0-9a-f]{1,40}$")

    @property
    def is_before_0_6(self) -> bool:
        """Whether the older rules hold."""
        return tuple(map(int, self.version.split("."))) < (0, 6, 0)


class VmStatus(StrEnum):
    """Every status that dstack-vmm gives a VM (`vmm/src/app/vm_info.rs`)."""

    RUNNING = "running"
    EXITED = "exited"
    STOPPING = "stopping"
    STOPPED = "stopped"
    REMOVING = "removing"


class VmSpec(BaseModel):
    """A VM to put on a host."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=VM_ID_PATTERN)
    name: str = ""
    status: VmStatus = VmStatus.RUNNING
    """`stopping` is the one of race 1: a process, `started` false, and no kill under way."""
    launched: bool = True
    """False for a stopped VM that has been loaded and never started."""
    behaviour: VmBehaviour = VmBehaviour()


class VmPatch(BaseModel):
    """A change of a VM; what is not set stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = None
    status: VmStatus | None = None
    """Puts the VM into this state at once."""
    behaviour: dict[str, object] | None = None
    """Fields of `VmBehaviour` to change; null takes all of them back to the host's."""


def generated_vms(prefix: str, count: int) -> list[VmSpec]:
    """Make specs of running VMs whose names and ids depend on `prefix` and number only.

    Parameters
    ----------
    prefix
        Names are `<prefix>-0`, `<prefix>-1`, …; hosts with the same prefix have the same VMs.
    count
        How many.
    """
    names = (f"{prefix}-{number}" for number in range(count))
    return [VmSpec(id=str(uuid5(NAMESPACE_URL, f"cvmstop:{n}")), name=n) for n in names]
