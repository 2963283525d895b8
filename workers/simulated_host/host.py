"""A simulated host: its VMs, its behaviour, its faults, and what it was asked."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from workers.simulated_host.auth import Credentials
from workers.simulated_host.behaviour import (
    Fault,
    HostBehaviour,
    VmBehaviour,
    VmPatch,
    VmSpec,
)
from workers.simulated_host.faults import FaultBook
from workers.simulated_host.journal import Journal
from workers.simulated_host.vm import Vm


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


@dataclass(kw_only=True)
class Resident:
    """A VM on a host, with what is its own beside its state."""

    id: str
    name: str
    vm: Vm
    behaviour: VmBehaviour
    faults: FaultBook
    stop_requests: int = 0


@dataclass(kw_only=True)
class Gauge:
    """How many calls of one sort are under way, and how many were at most."""

    current: int = 0
    max: int = 0


class Host:
    """One host.

    Parameters
    ----------
    behaviour
        To begin with.
    credentials
        Whom it lets in.
    vms
        VMs to begin with.
    seed
        Of the chances of faults and of jitter.
    log_file
        See `Journal`.
    clock
        Seconds of a monotonic clock.
    """

    def __init__(
        self,
        *,
        behaviour: HostBehaviour | None = None,
        credentials: Credentials | None = None,
        vms: Iterable[VmSpec] = (),
        seed: int = 0,
        log_file: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.behaviour = behaviour or HostBehaviour()
        self.credentials = credentials or Credentials()
        self.journal = Journal(clock, log_file)
        self.stop_gauge = Gauge()
        self.clock = clock
        self._chance = random.Random(seed)  # noqa: S311 - chances of faults, not secrets
        self._faults = FaultBook(self.behaviour.faults, self._chance)
        self._residents: dict[str, Resident] = {}
        for spec in vms:
            self.add(spec)

    def add(self, spec: VmSpec) -> Resident:
        """Put a VM on the host.

        Raises
        ------
        ValueError
            There is a VM of that id.
        """
        if self.find(spec.id) is not None:
            msg = f"there is a VM with the id {spec.id} already"
            raise ValueError(msg)
        resident = Resident(
            id=spec.id,
            name=spec.name or spec.id,
            vm=Vm(
                status=spec.status,
                behaviour=spec.behaviour.over(self.behaviour),
                clock=self.clock,
                launched=spec.launched,
            ),
            behaviour=spec.behaviour,
            faults=FaultBook(spec.behaviour.faults, self._chance),
        )
        self._residents[spec.id] = resident
        return resident

    def find(self, vm_id: str | None) -> Resident | None:
        """Find a VM; one that has been removed is forgotten here."""
        resident = None if vm_id is None else self._residents.get(vm_id)
        if resident is not None and resident.vm.gone:
            del self._residents[resident.id]
            return None
        return resident

    def residents(self) -> list[Resident]:
        """List the VMs, oldest first."""
        found = (self.find(vm_id) for vm_id in list(self._residents))
        return [resident for resident in found if resident is not None]

    def change(self, fields: dict[str, object]) -> None:
        """Change fields of the host's behaviour.

        Raises
        ------
        pydantic.ValidationError
            Unknown field or wrong value; nothing has changed.
        """
        old = self.behaviour.model_dump(exclude_unset=True)
        self.behaviour = HostBehaviour.model_validate({**old, **fields})
        if "faults" in fields:
            self._faults = FaultBook(self.behaviour.faults, self._chance)
        for resident in self._residents.values():
            self._settle(resident, fields)

    def change_vm(self, resident: Resident, patch: VmPatch) -> None:
        """Change a VM.

        Raises
        ------
        pydantic.ValidationError
            Unknown field of the behaviour or wrong value; nothing has changed.
        """
        if "behaviour" in patch.model_fields_set:
            fields = patch.behaviour
            old = {} if fields is None else resident.behaviour.model_dump(exclude_unset=True)
            changed = VmBehaviour.model_validate({**old, **(fields or {})})
            resident.behaviour = changed
            if fields is None or "faults" in fields:
                resident.faults = FaultBook(changed.faults, self._chance)
            self._settle(resident, fields or {})
        if patch.name is not None:
            resident.name = patch.name
        if patch.status is not None:
            resident.vm.place(patch.status)

    def _settle(self, resident: Resident, fields: dict[str, object]) -> None:
        """Let a VM follow changed fields; what it had under way until now stays done."""
        vm = resident.vm
        vm.status()
        vm.behaviour = resident.behaviour.over(self.behaviour)
        if "undone_stops" in fields:
            vm.undone = 0
        if "comebacks" in fields:
            vm.comebacks = 0

    def latency(self, resident: Resident | None) -> float:
        """Draw how long a request waits before it is looked at."""
        how = self.behaviour if resident is None else resident.vm.behaviour
        if not how.latency_jitter:
            return how.latency
        return how.latency + self._chance.uniform(0, how.latency_jitter)

    def draw_fault(self, method: str, resident: Resident | None) -> Fault | None:
        """Draw the fault that strikes a request, if any; the VM's own come first."""
        own = None if resident is None else resident.faults.draw(method)
        return own or self._faults.draw(method)

    @contextmanager
    def counting_stops(self) -> Iterator[None]:
        """Count a StopVm as under way."""
        gauge = self.stop_gauge
        gauge.current += 1
        gauge.max = max(gauge.max, gauge.current)
        try:
            yield
        finally:
            gauge.current -= 1
