"""What there is to stop: VM hosts, the CVMs on them, and what their hosts list of VMs."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.tables.base import VACUUM_OFTEN, Base, CreatedAt, RandomId, RowNumber


class VmHost(Base):
    """A machine that runs CVMs, and how to reach what manages them."""

    __tablename__ = "vm_hosts"
    __table_args__ = (
        CheckConstraint("max_concurrent_stops > 0", name="cap"),
        # Every request looks for them, and there are few or none.
        Index("ix_vm_hosts_disabled", "id", postgresql_where=text("disabled_at IS NOT NULL")),
    )

    id: Mapped[RandomId]
    name: Mapped[str] = mapped_column(unique=True)
    driver: Mapped[str]
    """Name of the driver: `dstack`."""
    address: Mapped[str]
    """What the driver connects to: `http://host:port`, `https://host:port` or `unix:/path`."""
    sealed_credentials: Mapped[bytes | None]
    """A `HostCredentials`, sealed with `CVMSTOP_SEALING_KEYS`."""
    max_concurrent_stops: Mapped[int]
    """The host's cap: how many stops may run on it at once."""
    unreachable_count: Mapped[int] = mapped_column(server_default=text("0"))
    """Unreachable answers in a row; at the breaker's threshold the breaker is open."""
    breaker_open_until: Mapped[datetime | None]
    """Until then no stop is claimed here; afterwards one at a time, until one gets through."""
    last_error: Mapped[str | None]
    """The last unreachable answer, for `cvmstop hosts list`."""
    unreachable_since: Mapped[datetime | None]
    """Since when it has not answered, neither stops nor syncs; null while it does."""
    disabled_at: Mapped[datetime | None]
    """Since when no stop is accepted on it; those that were accepted before go on."""
    adopts_into: Mapped[UUID | None] = mapped_column(ForeignKey("workspaces.id"))
    """Where VMs go that the host lists and nobody knows; null lists them as unassigned."""
    next_sync_at: Mapped[CreatedAt]
    """When its list of VMs is read next."""
    synced_at: Mapped[datetime | None]
    """When the host was asked for the newest list that was written down whole."""
    sync_error: Mapped[str | None]
    """Why nothing was written down the last time; null when it was."""
    created_at: Mapped[CreatedAt]


class Cvm(Base):
    """One confidential VM."""

    __tablename__ = "cvms"
    __table_args__ = (
        UniqueConstraint("vm_host_id", "vm_uuid"),
        CheckConstraint("vm_uuid IS NULL OR vm_host_id IS NOT NULL", name="vm_has_host"),
        Index(None, "workspace_id", "hash_id"),
        # Which hosts a workspace has CVMs on: one look for each host, however many CVMs.
        Index(None, "workspace_id", "vm_host_id"),
        # No index has what a stop changes in a CVM's row. Where its page has room for the new
        # version, no index is written to, of which there are five.
        {"postgresql_with": {**VACUUM_OFTEN["postgresql_with"], "fillfactor": 70}},
    )

    id: Mapped[RowNumber]
    hash_id: Mapped[str] = mapped_column(unique=True)
    """The public id, `cvm_…`; opaque."""
    name: Mapped[str]
    workspace_id: Mapped[UUID] = mapped_column(ForeignKey("workspaces.id"))
    vm_host_id: Mapped[UUID | None] = mapped_column(ForeignKey("vm_hosts.id"))
    vm_uuid: Mapped[str | None]
    """The VM's id on its host; null while there is none."""
    status: Mapped[str]
    """As last seen: a `PowerState` once a stop has asked, before that what was imported."""
    in_progress: Mapped[bool] = mapped_column(server_default=text("false"))
    """True exactly while an operation on the CVM is open (I3)."""
    gpu_rental_order: Mapped[str | None]
    """The GPU rental order that manages the CVM; such a CVM is never stopped from here."""
    seen_at: Mapped[datetime | None]
    """When its host listed or reported it last, to some minutes (`SEEN_STEP`)."""
    vanished_at: Mapped[datetime | None]
    """Since when its host lists it no more; null while it does, or was never asked."""
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[CreatedAt]


class UnassignedVm(Base):
    """A VM that a host lists and that is no CVM: nobody has said whose it is."""

    __tablename__ = "unassigned_vms"

    vm_host_id: Mapped[UUID] = mapped_column(ForeignKey("vm_hosts.id"), primary_key=True)
    vm_uuid: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    power_state: Mapped[str]
    """A `PowerState`."""
    first_seen_at: Mapped[CreatedAt]
    seen_at: Mapped[CreatedAt]
    """As a CVM's."""
