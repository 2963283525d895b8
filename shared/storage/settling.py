"""Settling stops: compare-and-set on the row, fenced by the attempt and its lease (I4).

Statements are built once, as in `claims`; locks are taken in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import (
    Boolean,
    Integer,
    Interval,
    Text,
    bindparam,
    case,
    extract,
    func,
    not_,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from shared.models.decisions import Standing
from shared.models.states import OPEN_STATES, StopState
from shared.storage.clock import now
from shared.storage.stop_states import is_still
from shared.tables import Cvm, StopAttempt, StopTask


if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Connection, Update

    from shared.models.decisions import Decision
    from shared.models.turns import Claim, TurnResult


@dataclass(frozen=True, kw_only=True)
class LockedStop:
    """A claimed stop whose row is locked, so that nobody else can end its claim."""

    id: UUID
    cvm_id: int
    standing: Standing


_LOCK_CLAIMED = (
    select(
        StopTask.cvm_id,
        StopTask.failures,
        StopTask.confirmations,
        extract("epoch", StopTask.deadline_at - now).label("seconds_left"),
    )
    .where(
        StopTask.id == bindparam("stop"),
        StopTask.attempt == bindparam("turn"),
        is_still(StopTask.state, StopState.STOPPING),
        StopTask.lease_expires_at > now,
    )
    .with_for_update(key_share=True)
)


def lock_claimed(connection: Connection, claim: Claim) -> LockedStop | None:
    """Lock the row of a claim.

    None when the claim is worth nothing any more: settled already, claimed anew, or its lease ran
    out. Then nothing may be changed.
    """
    row = connection.execute(
        _LOCK_CLAIMED, {"stop": claim.stop_task_id, "turn": claim.attempt}
    ).one_or_none()
    if row is None:
        return None
    standing = Standing(
        attempt=claim.attempt,
        failures=row.failures,
        confirmations=row.confirmations,
        seconds_left=float(row.seconds_left),
    )
    return LockedStop(id=claim.stop_task_id, cvm_id=row.cvm_id, standing=standing)


def _build_decision() -> Update:
    closed = bindparam("closed", type_=Boolean)
    code = bindparam("code", type_=Text)
    message = bindparam("message", type_=Text)
    seen = bindparam("seen", type_=Text)
    attempt = (
        update(StopAttempt)
        .where(
            StopAttempt.stop_task_id == bindparam("stop"), StopAttempt.number == bindparam("turn")
        )
        .values(
            finished_at=now,
            outcome=bindparam("ended_in", type_=Text),
            power_state=seen,
            error_code=code,
            error_message=message,
            exchanges=bindparam("exchanged", type_=JSONB),
        )
        .cte("attempt")
    )
    cvm = (
        update(Cvm)
        .where(Cvm.id == bindparam("cvm"), or_(closed, seen.is_not(None)))
        .values(in_progress=not_(closed), status=func.coalesce(seen, Cvm.status), updated_at=now)
        .cte("cvm")
    )
    return (
        update(StopTask)
        .where(
            StopTask.id == bindparam("stop"),
            StopTask.attempt == bindparam("turn"),
            is_still(StopTask.state, StopState.STOPPING),
        )
        .values(
            state=bindparam("next_state", type_=Text),
            lease_expires_at=None,
            due_at=now + bindparam("wait", type_=Interval),
            sent_at=None,
            failures=bindparam("failed", type_=Integer),
            confirmations=bindparam("confirmed", type_=Integer),
            error_code=code,
            error_message=message,
            force_stopped_at=case(
                (bindparam("force_stopped", type_=Boolean), now), else_=StopTask.force_stopped_at
            ),
            finished_at=case((closed, now), else_=null()),
        )
        .add_cte(attempt, cvm)
    )


_DECISION = _build_decision()


def write_decision(
    connection: Connection, stop: LockedStop, result: TurnResult, decision: Decision
) -> None:
    """Write a turn's end: the stop, its attempt, and its CVM, in one statement."""
    connection.execute(
        _DECISION,
        {
            "stop": stop.id,
            "turn": stop.standing.attempt,
            "cvm": stop.cvm_id,
            "next_state": decision.state,
            "closed": decision.state not in OPEN_STATES,
            "wait": timedelta(seconds=decision.wait),
            "failed": decision.failures,
            "confirmed": decision.confirmations,
            "code": decision.code,
            "message": decision.message,
            "force_stopped": result.force_stopped,
            "ended_in": decision.outcome,
            "seen": result.power_state,
            "exchanged": [exchange.as_json() for exchange in result.exchanges],
        },
    )
