"""Claiming stops: compare-and-set on the row (I4).

Locks are always taken in the order host, stop task, CVM. Times are the database's own.

Statements are built once: building one anew takes longer than all else about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Interval, Text, bindparam, extract, insert, select, update

from shared.models.states import WAITING_STATES, StopState
from shared.models.turns import Claim, Refusal
from shared.storage.clock import now
from shared.storage.host_standing import (
    BREAKER_IS_OPEN,
    BREAKER_THRESHOLD,
    ROOM,
    refusal_of_host,
)
from shared.storage.stop_states import is_still, is_waiting
from shared.tables import StopAttempt, StopTask, VmHost


if TYPE_CHECKING:
    from datetime import timedelta
    from uuid import UUID

    from sqlalchemy import Connection, Select


_HOST_OF = (
    select(
        StopTask.vm_host_id,
        is_waiting(StopTask.state),
        StopTask.due_at <= now,
        BREAKER_IS_OPEN,
        ROOM,
    )
    .join(VmHost, VmHost.id == StopTask.vm_host_id)
    .where(StopTask.id == bindparam("stop"))
)


def find_host_of(
    connection: Connection, stop_task_id: UUID, *, breaker_threshold: int
) -> UUID | Refusal:
    """Find the host of a stop that may be claimed now.

    Nothing is locked, so that the many messages that are refused (all but the cap's of a batch on
    one host) do not queue for the host's row. What it says is looked at again under the lock.
    """
    row = connection.execute(
        _HOST_OF, {"stop": stop_task_id, BREAKER_THRESHOLD: breaker_threshold}
    ).one_or_none()
    if row is None:
        return Refusal.NOT_WAITING
    vm_host_id, waits, is_due, breaker_is_open, room = row
    if not waits:
        return Refusal.NOT_WAITING
    if not is_due:
        return Refusal.NOT_DUE
    return refusal_of_host(breaker_is_open=breaker_is_open, room=room) or vm_host_id


def _build_claim() -> Select[UUID, int, UUID, str, str, float | None]:
    by_worker = bindparam("by_worker", type_=Text)
    claimed = (
        update(StopTask)
        .where(
            StopTask.id == bindparam("stop"),
            is_still(StopTask.state, *WAITING_STATES),
            StopTask.due_at <= now,
        )
        .values(
            state=StopState.STOPPING,
            attempt=StopTask.attempt + 1,
            worker=by_worker,
            lease_expires_at=now + bindparam("lease", type_=Interval),
        )
        .returning(
            StopTask.id,
            StopTask.attempt,
            StopTask.vm_host_id,
            StopTask.vm_uuid,
            StopTask.request_id,
            extract("epoch", now - StopTask.force_stopped_at).label("since_force_stop"),
        )
        .cte("claimed")
    )
    attempt = (
        insert(StopAttempt)
        .from_select(
            ["stop_task_id", "number", "worker", "started_at"],
            select(claimed.c.id, claimed.c.attempt, by_worker, now),
        )
        .cte("attempt")
    )
    return select(claimed).add_cte(attempt)


_CLAIM = _build_claim()


def claim_row(
    connection: Connection, stop_task_id: UUID, *, worker: str, lease: timedelta
) -> Claim | None:
    """Claim a stop whose host is locked and has room; None if somebody else was first."""
    row = connection.execute(
        _CLAIM, {"stop": stop_task_id, "by_worker": worker, "lease": lease}
    ).one_or_none()
    if row is None:
        return None
    return Claim(
        stop_task_id=row.id,
        attempt=row.attempt,
        vm_host_id=row.vm_host_id,
        vm_uuid=row.vm_uuid,
        request_id=row.request_id,
        seconds_since_force_stop=(
            None if row.since_force_stop is None else float(row.since_force_stop)
        ),
    )
