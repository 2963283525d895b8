"""Claiming stops: compare-and-set on the row (I4).

Locks are always taken in the order host, stop task, CVM. Times are the database's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Interval,
    Text,
    bindparam,
    exists,
    extract,
    func,
    insert,
    select,
    update,
)

from shared.models.hosts import SealedHost
from shared.models.states import WAITING_STATES, StopState
from shared.models.turns import Claim, Refusal
from shared.storage.clock import now
from shared.storage.compiled import CompiledStatement
from shared.storage.host_standing import (
    BREAKER_IS_OPEN,
    BREAKER_THRESHOLD,
    ROOM,
    refusal_of_host,
)
from shared.storage.stop_states import is_still
from shared.tables import StopAttempt, StopTask, VmHost


if TYPE_CHECKING:
    from datetime import timedelta
    from uuid import UUID

    from psycopg import Connection
    from sqlalchemy import Select

IS_WAITING = is_still(StopTask.state, *WAITING_STATES)
"""Of a stop that is looked for by its id."""


@dataclass(frozen=True, kw_only=True)
class LockedForClaim:
    """A host whose row is locked, and on which a stop waits and is due."""

    id: UUID
    reached_by: SealedHost


LOCK_TIMEOUT = "500ms"
"""Longest wait of a claim for its host's row, with a connection of which a worker has few.

Others hold it for some milliseconds, one after the other. Who holds it for longer is frozen, or
waits itself, and must not hold up claims on other hosts.
"""

# In a common table expression, so that it is evaluated before the row is locked, and in the same
# trip.
_BOUND = (
    select(func.set_config("lock_timeout", LOCK_TIMEOUT, True).label("lock_timeout"))
    .cte("bound")
    .prefix_with("MATERIALIZED")
)
_LOCK_HOST_OF = CompiledStatement(
    select(VmHost.id, VmHost.name, VmHost.driver, VmHost.address, VmHost.sealed_credentials)
    .select_from(_BOUND)
    .join(StopTask, _BOUND.c.lock_timeout == LOCK_TIMEOUT)
    .join(VmHost, StopTask.vm_host_id == VmHost.id)
    .where(StopTask.id == bindparam("stop"), IS_WAITING, StopTask.due_at <= now)
    .with_for_update(of=VmHost, key_share=True)
)


def lock_host_of(connection: Connection[Any], stop_task_id: UUID) -> LockedForClaim | None:
    """Lock the host of a stop that waits and is due; None, and no lock, when it does not.

    Raises
    ------
    psycopg.errors.LockNotAvailable
        Somebody holds the host's row for longer than `LOCK_TIMEOUT`, which holds for what else the
        transaction waits for too.
    """
    row = _LOCK_HOST_OF.run(connection, {"stop": stop_task_id}).fetchone()
    if row is None:
        return None
    host, name, driver, address, sealed_credentials = row
    return LockedForClaim(
        id=host,
        reached_by=SealedHost(
            name=name, driver=driver, address=address, sealed_credentials=sealed_credentials
        ),
    )


def _build_claim() -> Select[UUID, int, UUID, str, str, float | None]:
    by_worker = bindparam("by_worker", type_=Text)
    claimed = (
        update(StopTask)
        .where(
            StopTask.id == bindparam("stop"),
            IS_WAITING,
            StopTask.due_at <= now,
            exists().where(VmHost.id == bindparam("host"), ~BREAKER_IS_OPEN, ROOM > 0),
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


_CLAIM = CompiledStatement(_build_claim())


def claim_row(
    connection: Connection[Any],
    stop_task_id: UUID,
    host: LockedForClaim,
    *,
    worker: str,
    lease: timedelta,
    breaker_threshold: int,
) -> Claim | None:
    """Claim a stop on a locked host that has room for it; None if it has not, or if it is gone.

    A statement of its own: its snapshot is taken after the lock was got, and so sees what the
    transaction that held it before has done.
    """
    row = _CLAIM.run(
        connection,
        {
            "stop": stop_task_id,
            "host": host.id,
            "by_worker": worker,
            "lease": lease,
            BREAKER_THRESHOLD: breaker_threshold,
        },
    ).fetchone()
    if row is None:
        return None
    task, attempt, vm_host_id, vm_uuid, request_id, since_force_stop = row
    return Claim(
        stop_task_id=task,
        attempt=attempt,
        vm_host_id=vm_host_id,
        vm_uuid=vm_uuid,
        request_id=request_id,
        seconds_since_force_stop=None if since_force_stop is None else float(since_force_stop),
    )


_PUT_BACK = CompiledStatement(
    update(StopTask)
    .where(StopTask.id == bindparam("stop"), IS_WAITING, VmHost.id == StopTask.vm_host_id)
    .values(sent_at=None)
    .returning(BREAKER_IS_OPEN, ROOM)
)


def put_back(connection: Connection[Any], stop_task_id: UUID, *, breaker_threshold: int) -> Refusal:
    """Note that a stop's message was in vain, while its host is locked; gives the reason.

    Whoever ends a turn on the host next finds it, and wakes a worker for it.
    """
    row = _PUT_BACK.run(
        connection, {"stop": stop_task_id, BREAKER_THRESHOLD: breaker_threshold}
    ).fetchone()
    if row is None:
        return Refusal.NOT_WAITING
    breaker_is_open, room = row
    return refusal_of_host(breaker_is_open=breaker_is_open, room=room) or Refusal.HOST_AT_CAP


_IS_DUE = CompiledStatement(
    select(StopTask.due_at <= now).where(StopTask.id == bindparam("stop"), IS_WAITING)
)


def why_not_now(connection: Connection[Any], stop_task_id: UUID) -> Refusal:
    """Say why a stop was not to be had: it does not wait, or is not due yet."""
    row = _IS_DUE.run(connection, {"stop": stop_task_id}).fetchone()
    return Refusal.NOT_WAITING if row is None else Refusal.NOT_DUE
