"""Claiming and settling stops: compare-and-set on the row, fenced by the attempt (I4).

Locks are always taken in the order host, stop task, CVM. Times are the database's own.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Interval, func, insert, literal, select, update

from shared.models.states import OPEN_STATES, WAITING_STATES, StopState
from shared.models.turns import Claim, Refusal
from shared.storage.clock import now
from shared.storage.host_standing import refusal_of_host, standing_of_host
from shared.tables import Cvm, StopAttempt, StopTask, VmHost


if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy.orm import Session

    from shared.models.decisions import Decision
    from shared.models.turns import TurnResult


def find_host_of(session: Session, stop_task_id: UUID, *, breaker_threshold: int) -> UUID | Refusal:
    """Find the host of a stop that may be claimed now.

    Nothing is locked, so that the many messages that are refused (all but the cap's of a batch on
    one host) do not queue for the host's row. What it says is looked at again under the lock.
    """
    row = session.execute(
        select(
            StopTask.vm_host_id,
            StopTask.state.in_(WAITING_STATES),
            StopTask.due_at <= now,
            *standing_of_host(breaker_threshold),
        )
        .join(VmHost, VmHost.id == StopTask.vm_host_id)
        .where(StopTask.id == stop_task_id)
    ).one_or_none()
    if row is None:
        return Refusal.NOT_WAITING
    vm_host_id, is_waiting, is_due, breaker_is_open, room = row
    if not is_waiting:
        return Refusal.NOT_WAITING
    if not is_due:
        return Refusal.NOT_DUE
    return refusal_of_host(breaker_is_open=breaker_is_open, room=room) or vm_host_id


def claim_row(
    session: Session, stop_task_id: UUID, *, worker: str, lease: timedelta
) -> Claim | None:
    """Claim a stop whose host is locked and has room; None if somebody else was first."""
    claimed = (
        update(StopTask)
        .where(
            StopTask.id == stop_task_id,
            StopTask.state.in_(WAITING_STATES),
            StopTask.due_at <= now,
        )
        .values(
            state=StopState.STOPPING,
            attempt=StopTask.attempt + 1,
            worker=worker,
            lease_expires_at=now + literal(lease, Interval),
        )
        .returning(
            StopTask.id,
            StopTask.attempt,
            StopTask.vm_host_id,
            StopTask.vm_uuid,
            StopTask.request_id,
            func.extract("epoch", now - StopTask.force_stopped_at).label("since_force_stop"),
        )
        .cte("claimed")
    )
    attempt = (
        insert(StopAttempt)
        .from_select(
            ["stop_task_id", "number", "worker", "started_at"],
            select(claimed.c.id, claimed.c.attempt, literal(worker), now),
        )
        .cte("attempt")
    )
    row = session.execute(select(claimed).add_cte(attempt)).one_or_none()
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


def lock_claimed(session: Session, claim: Claim) -> tuple[StopTask, float] | None:
    """Lock the row of a claim, with the seconds left until its deadline.

    None when the claim is worth nothing any more: settled already, claimed anew, or its lease ran
    out. Then nothing may be changed.
    """
    query = (
        select(StopTask, func.extract("epoch", StopTask.deadline_at - now))
        .where(
            StopTask.id == claim.stop_task_id,
            StopTask.attempt == claim.attempt,
            StopTask.state == StopState.STOPPING,
            StopTask.lease_expires_at > now,
        )
        .with_for_update(key_share=True)
    )
    row = session.execute(query).one_or_none()
    return None if row is None else (row[0], float(row[1]))


def write_decision(
    session: Session, task: StopTask, result: TurnResult, decision: Decision
) -> None:
    """Write a turn's end: the stop, its attempt, and its CVM. `lock_claimed` gave the stop."""
    closed = decision.state not in OPEN_STATES
    session.execute(
        update(StopTask)
        .where(
            StopTask.id == task.id,
            StopTask.attempt == task.attempt,
            StopTask.state == StopState.STOPPING,
        )
        .values(
            state=decision.state,
            lease_expires_at=None,
            due_at=now + literal(timedelta(seconds=decision.wait), Interval),
            sent_at=None,
            failures=decision.failures,
            confirmations=decision.confirmations,
            error_code=decision.code,
            error_message=decision.message,
            force_stopped_at=now if result.force_stopped else StopTask.force_stopped_at,
            finished_at=now if closed else None,
        )
        .execution_options(synchronize_session=False)
    )
    session.execute(
        update(StopAttempt)
        .where(StopAttempt.stop_task_id == task.id, StopAttempt.number == task.attempt)
        .values(
            finished_at=now,
            outcome=decision.outcome,
            power_state=result.power_state,
            error_code=decision.code,
            error_message=decision.message,
            exchanges=[exchange.as_json() for exchange in result.exchanges],
        )
        .execution_options(synchronize_session=False)
    )
    if closed or result.power_state is not None:
        session.execute(
            update(Cvm)
            .where(Cvm.id == task.cvm_id)
            .values(
                in_progress=not closed,
                status=Cvm.status if result.power_state is None else result.power_state,
                updated_at=now,
            )
            .execution_options(synchronize_session=False)
        )
