"""Finding the stops that somebody must be woken for. Any number of dispatchers may run."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import (
    Integer,
    Interval,
    any_,
    bindparam,
    case,
    extract,
    func,
    literal,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from shared.models.errors import ErrorCode
from shared.models.states import WAITING_STATES, AttemptOutcome, StopState
from shared.models.turns import DueStop, OverdueStop
from shared.storage.clock import now
from shared.storage.host_standing import BREAKER_THRESHOLD, ROOM
from shared.storage.stop_states import is_one_of, is_still, is_waiting
from shared.tables import Cvm, StopAttempt, StopTask, VmHost


if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy import CTE, Select
    from sqlalchemy.orm import Session
    from sqlalchemy.sql.dml import ReturningUpdate

LEASE_MESSAGE = "the worker did not finish its turn in time (it died, or was cut off)"
"""Written on a stop and its attempt when the lease runs out."""


def release_expired(session: Session, *, limit: int) -> int:
    """Give stops whose lease ran out back, to be claimed again; gives how many."""
    lapsed = (
        select(StopTask.id, StopTask.attempt)
        .where(is_one_of(StopTask.state, StopState.STOPPING), StopTask.lease_expires_at <= now)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
        .cte("lapsed")
    )
    released = (
        update(StopTask)
        .where(StopTask.id == lapsed.c.id)
        .values(
            state=StopState.SCHEDULED,
            lease_expires_at=None,
            due_at=now,
            sent_at=None,
            error_code=ErrorCode.LEASE_EXPIRED,
            error_message=LEASE_MESSAGE,
        )
        .returning(StopTask.id)
        .cte("released")
    )
    closed = (
        update(StopAttempt)
        .where(StopAttempt.stop_task_id == lapsed.c.id, StopAttempt.number == lapsed.c.attempt)
        .values(
            finished_at=now,
            outcome=AttemptOutcome.LEASE_EXPIRED,
            error_code=ErrorCode.LEASE_EXPIRED,
            error_message=LEASE_MESSAGE,
        )
        .cte("closed")
    )
    return session.execute(select(func.count()).select_from(released).add_cte(closed)).scalar_one()


def fail_overdue(session: Session, *, grace: timedelta, limit: int) -> list[OverdueStop]:
    """Fail waiting stops that nobody could look at in time, and give them.

    A stop that can be claimed at its deadline gets one last look; those that cannot (the host's
    breaker is open, or its queue is long) end here, `grace` later.
    """
    overdue = (
        select(StopTask.id, StopTask.cvm_id)
        .join(Cvm, Cvm.id == StopTask.cvm_id)
        .where(
            is_waiting(StopTask.state),
            # What the deadlines' index has.
            StopTask.finished_at.is_(None),
            StopTask.deadline_at <= now - literal(grace, Interval),
        )
        .limit(limit)
        # CVMs that a request has locked wait for the next round: two that lock many CVMs, each in
        # an order of its own, would wait for each other in a circle.
        .with_for_update(of=[StopTask, Cvm], skip_locked=True, key_share=True)
        .cte("overdue")
    )
    tried = func.concat(
        "not confirmed before the deadline; the last try: ",
        func.coalesce(StopTask.error_message, "the host took the force stop"),
    )
    # Not the host's last error: that is of other stops, maybe another workspace's (I6).
    never_tried = func.concat(
        "never tried before the deadline: ",
        case(
            (VmHost.unreachable_count > 0, "the host does not answer"),
            else_="the host was at its cap, or no worker ran",
        ),
    )
    reason = case((StopTask.attempt > 0, tried), else_=never_tried)
    failed = (
        update(StopTask)
        .where(StopTask.id == overdue.c.id, VmHost.id == StopTask.vm_host_id)
        .values(
            state=StopState.FAILED,
            finished_at=now,
            error_code=ErrorCode.DEADLINE_EXCEEDED,
            error_message=reason,
        )
        .returning(
            VmHost.name.label("host"), extract("epoch", now - StopTask.accepted_at).label("age")
        )
        .cte("failed")
    )
    freed = (
        update(Cvm)
        .where(Cvm.id == overdue.c.cvm_id)
        .values(in_progress=False, updated_at=now)
        .cte("freed")
    )
    rows = session.execute(select(failed.c.host, failed.c.age).add_cte(freed))
    return [OverdueStop(host=row.host, age=float(row.age)) for row in rows]


def take_due(
    session: Session, *, resend_after: timedelta, breaker_threshold: int, limit: int
) -> list[DueStop]:
    """Mark the stops that a message is to be sent for now, and give them.

    Due, not sent within `resend_after`, and of each host no more than it has room for: what is
    over a host's cap would only be refused. Hosts that answer come first, if `limit` is short.
    """
    room = (
        select(VmHost.id, ROOM.label("places"))
        .where(or_(VmHost.breaker_open_until.is_(None), VmHost.breaker_open_until <= now))
        .order_by(VmHost.unreachable_count, func.random())
        .cte("room")
        .prefix_with("MATERIALIZED")
    )
    due = (
        select(StopTask.id, StopTask.sent_at.is_not(None).label("was_sent"))
        .where(
            StopTask.vm_host_id == room.c.id,
            is_waiting(StopTask.state),
            StopTask.due_at <= now,
            or_(
                StopTask.sent_at.is_(None),
                StopTask.sent_at <= now - literal(resend_after, Interval),
            ),
        )
        .order_by(StopTask.due_at)
        .limit(func.greatest(room.c.places, 0))
        .with_for_update(skip_locked=True, key_share=True)
        .lateral("due")
    )
    picked = (
        select(due.c.id, due.c.was_sent)
        .select_from(room.join(due, true()))
        .limit(limit)
        .cte("picked")
    )
    marked = _marking_sent(picked).returning(StopTask.vm_host_id, picked.c.was_sent).cte("marked")
    rows = session.execute(
        select(
            marked.c.id,
            marked.c.request_id,
            marked.c.was_sent,
            Cvm.hash_id,
            VmHost.name.label("host"),
        )
        .join(Cvm, Cvm.id == marked.c.cvm_id)
        .join(VmHost, VmHost.id == marked.c.vm_host_id),
        {BREAKER_THRESHOLD: breaker_threshold},
    )
    return [
        DueStop(
            stop_task_id=row.id,
            request_id=row.request_id,
            cvm_id=row.hash_id,
            host=row.host,
            was_sent=row.was_sent,
        )
        for row in rows
    ]


def _marking_sent(picked: CTE) -> ReturningUpdate[UUID, str, int]:
    """Mark the picked stops as sent now; the caller sends them after the commit."""
    return (
        update(StopTask)
        .where(StopTask.id == picked.c.id)
        .values(sent_at=now)
        .returning(StopTask.id, StopTask.request_id, StopTask.cvm_id)
    )


def take_next_of_host() -> Select[UUID, str, str]:
    """Build what marks the stops of one host that may use the places that became free.

    Parameters of the statement: `host`, and `places`, how many. One for each turn that ends keeps
    a host at its cap for as long as it has stops waiting.

    Only those that no message is under way for: a message that a full host refused has put its
    stop back (`claims.put_back`), under the lock of the host that this statement runs under too.
    Who is due for longest comes first. Were there another order, turns that end undecided could
    hand the place to each other. Rows that a dispatcher is just taking are passed over.
    """
    picked = (
        select(StopTask.id)
        .where(
            StopTask.vm_host_id == bindparam("host"),
            is_waiting(StopTask.state),
            StopTask.sent_at.is_(None),
            StopTask.due_at <= now,
        )
        .order_by(StopTask.due_at)
        .limit(bindparam("places", type_=Integer))
        .with_for_update(skip_locked=True, key_share=True)
        .cte("picked")
    )
    woken = _marking_sent(picked).cte("woken")
    return select(woken.c.id, woken.c.request_id, Cvm.hash_id).join(Cvm, Cvm.id == woken.c.cvm_id)


def mark_unsent(session: Session, stop_task_ids: Sequence[UUID]) -> None:
    """Take a mark of `take_due` back after the broker refused the messages."""
    ids = literal(list(stop_task_ids), ARRAY(PG_UUID(as_uuid=True)))
    # Locked rows are passed over: a worker has them, or who cancels them, each in an order of its
    # own, which would be waited for in a circle. Others that are passed over are sent again later.
    marked = (
        select(StopTask.id)
        .where(StopTask.id == any_(ids), is_still(StopTask.state, *WAITING_STATES))
        .with_for_update(skip_locked=True, key_share=True)
        .cte("marked")
    )
    session.execute(
        update(StopTask)
        .where(StopTask.id == marked.c.id)
        .values(sent_at=None)
        .execution_options(synchronize_session=False)
    )
