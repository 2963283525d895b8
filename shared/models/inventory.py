"""What an import says of CVMs, and what a host's list does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from shared.models.hosts import SealedHost
    from shared.models.states import PowerState


@dataclass(frozen=True, kw_only=True, slots=True)
class CvmRecord:
    """One CVM, as a line of a file has it."""

    line: int
    """Where it stands in the file, from 1."""
    hash_id: str
    name: str
    workspace: str
    """The workspace's name."""
    host: str | None
    """The host's name; None while the CVM is on none."""
    vm_uuid: str | None
    status: str | None
    """None leaves it as it is (`unknown` for a new CVM)."""
    gpu_rental_order: str | None
    keeps_gpu_rental_order: bool
    """The file does not say: an order that is there must not be lost, it keeps a CVM from stops."""


@dataclass(frozen=True, kw_only=True)
class ImportCounts:
    """What an import did."""

    added: int
    updated: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedVm:
    """One VM, as a host lists it."""

    vm_uuid: str
    name: str
    power_state: PowerState


@dataclass(frozen=True, kw_only=True)
class HostToSync:
    """A host that is about to be asked for its list."""

    id: UUID
    reached_by: SealedHost = field(repr=False)
    asked_at: datetime
    """The database's time from before the host is asked: what is newer in a row stays."""
    breaker_is_open: bool


@dataclass(frozen=True, kw_only=True)
class SyncCounts:
    """What one sync did, and how the host stands after it."""

    vms: int
    """Listed, each once, without those that are no VM of which cvmstop can take note."""
    updated: int = 0
    """CVMs whose status changed, or that vanished or came back."""
    adopted: int = 0
    """New CVMs."""
    vanished: int = 0
    """CVMs that the host lists no more: those of `updated` that were marked now."""
    unassigned: int = 0
    """Listed VMs that are no CVM after this."""
    drifted: int = 0
    """CVMs of the host that run though their stop has succeeded, whenever that was noticed."""
    unusable: int = 0
    """Listed VMs with an id that no VM can have, or one that was there before: passed over."""
