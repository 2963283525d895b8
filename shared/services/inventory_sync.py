"""What a host's list of VMs means for the rows: statuses, new CVMs, vanished ones, drift."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shared.models.inventory import SyncCounts
from shared.models.naming import VM_UUID, as_text, new_cvm_id
from shared.models.states import PowerState
from shared.storage import inventory_sync as storage


if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy.orm import Session

    from shared.models.hosts import SealedHost
    from shared.models.inventory import ListedVm


def write_list(
    session: Session,
    host_id: UUID,
    vms: Iterable[ListedVm],
    *,
    asked_at: datetime,
    asked: SealedHost | None = None,
) -> SyncCounts | None:
    """Make the rows of a host's VMs what its list says, in one transaction.

    An operation that is open keeps its CVM's state, and so does whatever was written after
    `asked_at`: a stop that was settled since knows more than the list. Rows that somebody has
    locked are left to the next sync.

    Parameters
    ----------
    session
        A transaction in which nothing is locked yet.
    host_id
        The host.
    vms
        Everything that it listed. A list that is not whole must not come here: what is not in it
        counts as vanished.
    asked_at
        The database's time from before the host was asked.
    asked
        How the host was reached; a list of what it was before it was replaced is dropped.

    Returns
    -------
    SyncCounts
        None when nothing was written: the host is gone or was replaced, or a list that was asked
        for later is written down already.
    """
    listed = list(vms)
    usable = _usable(listed)
    hash_ids = [new_cvm_id() for _ in usable]
    # After all that takes time: who wants to claim a stop on the host waits for the lock.
    host = storage.lock_host(session, host_id)
    if host is None or (host.synced_at is not None and host.synced_at >= asked_at):
        return None
    if asked is not None and host.reached_by != (
        asked.driver,
        asked.address,
        asked.sealed_credentials,
    ):
        return None
    written = storage.write_list(session, host, usable, hash_ids=hash_ids, asked_at=asked_at)
    return SyncCounts(
        vms=len(usable),
        updated=written.updated,
        adopted=written.adopted,
        vanished=written.vanished,
        unassigned=written.unassigned,
        drifted=written.drifted,
        unusable=len(listed) - len(usable),
    )


def _usable(vms: Iterable[ListedVm]) -> list[ListedVm]:
    """Give each VM once, with a name that can be stored; none whose id is none."""
    found: dict[str, ListedVm] = {}
    for vm in vms:
        if vm.power_state is PowerState.ABSENT or VM_UUID.fullmatch(vm.vm_uuid) is None:
            continue
        found.setdefault(vm.vm_uuid, replace(vm, name=as_text(vm.name) or vm.vm_uuid))
    return list(found.values())
