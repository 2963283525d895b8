"""What stops can be tried again: how their CVMs stand today."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from sqlalchemy import func, select, true
from sqlalchemy.orm import aliased

from shared.tables import Cvm, StopTask, VmHost


if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session


class EndedStop(NamedTuple):
    """A stop that is to be tried again, and its CVM, whose row is locked."""

    stop_task_id: UUID
    state: str
    cvm: int
    cvm_id: str
    workspace_id: UUID
    """Where the CVM is today."""
    in_progress: bool
    has_vm: bool
    is_rented: bool
    host_is_disabled: bool
    newest_state: str
    """Of the CVM's newest stop, which may be this one."""


def lock_for_retry(session: Session, stop_task_ids: Sequence[UUID]) -> list[EndedStop]:
    """Lock the CVMs of stops in the order of their keys, as accepting stops does, and read both."""
    cvms = select(StopTask.cvm_id).where(StopTask.id.in_(stop_task_ids))
    session.execute(select(Cvm.id).where(Cvm.id.in_(cvms)).order_by(Cvm.id).with_for_update()).all()
    # A statement of its own: what was waited for is seen only by one that begins after it.
    other = aliased(StopTask)
    newest = (
        select(other.state.label("state"))
        .where(other.cvm_id == Cvm.id)
        .order_by(other.accepted_at.desc(), other.id.desc())
        .limit(1)
        .lateral("newest")
    )
    rows = session.execute(
        select(
            StopTask.id,
            StopTask.state,
            Cvm.id,
            Cvm.hash_id,
            Cvm.workspace_id,
            Cvm.in_progress,
            Cvm.vm_uuid.is_not(None) & Cvm.vm_host_id.is_not(None),
            Cvm.gpu_rental_order.is_not(None),
            func.coalesce(VmHost.disabled_at.is_not(None), False),
            newest.c.state,
        )
        .join(Cvm, Cvm.id == StopTask.cvm_id)
        .join(newest, true())
        .outerjoin(VmHost, VmHost.id == Cvm.vm_host_id)
        .where(StopTask.id.in_(stop_task_ids))
        .order_by(Cvm.id)
    )
    return [EndedStop(*row) for row in rows]
