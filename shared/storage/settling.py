"""Settling stops: compare-and-set on the row, fenced by the attempt and its lease (I4).

Locks are taken in the same order as in `claims`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb
from sqlalchemy import (
    Boolean,
    Integer,
    Interval,
    Text,
    bindparam,
    case,
    extract,
    func,
    join,
    not_,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from shared.models.decisions import Standing
from shared.models.states import OPEN_STATES, PowerState, StopState
from shared.models.turns import DueStop
from shared.storage.clock import now
from shared.storage.compiled import CompiledStatement
from shared.storage.dispatch import take_next_of_host
from shared.storage.host_standing import HAS_NOT_ANSWERED, LockedHost
from shared.storage.stop_states import is_still
from shared.tables import Cvm, CvmDrift, StopAttempt, StopTask, VmHost


if TYPE_CHECKING:
    from uuid import UUID

    from psycopg import Connection
    from sqlalchemy import Select

    from shared.models.decisions import Decision
    from shared.models.turns import Claim, TurnResult


@dataclass(frozen=True, kw_only=True)
class LockedStop:
    """A claimed stop whose row is locked, and its host's: nobody else can end its claim."""

    id: UUID
    cvm_id: int
    standing: Standing
    host: LockedHost
    host_name: str
    age: float
    """Seconds since it was accepted."""


_LOCK_CLAIMED = CompiledStatement(
    select(
        VmHost.name,
        VmHost.max_concurrent_stops,
        HAS_NOT_ANSWERED.label("has_not_answered"),
        StopTask.cvm_id,
        StopTask.failures,
        StopTask.confirmations,
        extract("epoch", StopTask.deadline_at - now).label("seconds_left"),
        extract("epoch", now - StopTask.accepted_at).label("age"),
    )
    # The host first: rows are locked in the order in which they stand here.
    .select_from(join(VmHost, StopTask, StopTask.vm_host_id == VmHost.id))
    .where(
        StopTask.id == bindparam("stop"),
        StopTask.attempt == bindparam("turn"),
        is_still(StopTask.state, StopState.STOPPING),
        StopTask.lease_expires_at > now,
    )
    .with_for_update(key_share=True)
)


def lock_claimed(connection: Connection[Any], claim: Claim) -> LockedStop | None:
    """Lock the row of a claim, and its host's.

    None when the claim is worth nothing any more: settled already, claimed anew, or its lease ran
    out. Then nothing may be changed.
    """
    row = _LOCK_CLAIMED.run(
        connection, {"stop": claim.stop_task_id, "turn": claim.attempt}
    ).fetchone()
    if row is None:
        return None
    host, cap, has_not_answered, cvm_id, failures, confirmations, seconds_left, age = row
    return LockedStop(
        id=claim.stop_task_id,
        cvm_id=cvm_id,
        standing=Standing(
            attempt=claim.attempt,
            failures=failures,
            confirmations=confirmations,
            seconds_left=float(seconds_left),
        ),
        host=LockedHost(
            id=claim.vm_host_id, max_concurrent_stops=cap, has_not_answered=has_not_answered
        ),
        host_name=host,
        age=float(age),
    )


def _build_decision() -> Select[UUID, str, str]:
    closed = bindparam("closed", type_=Boolean)
    code = bindparam("code", type_=Text)
    message = bindparam("message", type_=Text)
    seen = bindparam("seen", type_=Text)
    is_there = bindparam("is_there", type_=Boolean)
    is_down = bindparam("is_down", type_=Boolean)
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
        .values(
            in_progress=not_(closed),
            status=func.coalesce(seen, Cvm.status),
            seen_at=case((is_there, now), else_=Cvm.seen_at),
            vanished_at=case(
                (is_there, null()),
                (seen.is_not(None), func.coalesce(Cvm.vanished_at, now)),
                else_=Cvm.vanished_at,
            ),
            updated_at=now,
        )
        .cte("cvm")
    )
    drift = (
        update(CvmDrift)
        .where(CvmDrift.cvm_id == bindparam("cvm"), CvmDrift.ended_at.is_(None), is_down)
        .values(ended_at=now)
        .cte("drift")
    )
    stop = (
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
        .cte("stop")
    )
    return take_next_of_host().add_cte(attempt, cvm, drift, stop)


_DECISION = CompiledStatement(_build_decision())


def write_decision(
    connection: Connection[Any],
    stop: LockedStop,
    result: TurnResult,
    decision: Decision,
    *,
    places: int,
) -> list[DueStop]:
    """Write a turn's end: the stop, its attempt, its CVM and that one's drift, in one statement.

    Parameters
    ----------
    connection
        In the transaction that has locked the stop.
    stop, result, decision
        What ended, how, and what becomes of it.
    places
        How many stops of the host may be woken; they are marked as sent, and given.
    """
    rows = _DECISION.run(
        connection,
        {
            "stop": stop.id,
            "turn": stop.standing.attempt,
            "cvm": stop.cvm_id,
            "next_state": str(decision.state),
            "closed": decision.state not in OPEN_STATES,
            "wait": timedelta(seconds=decision.wait),
            "failed": decision.failures,
            "confirmed": decision.confirmations,
            "code": decision.code and str(decision.code),
            "message": decision.message,
            "force_stopped": result.force_stopped,
            "ended_in": str(decision.outcome),
            "seen": result.power_state and str(result.power_state),
            "is_there": result.power_state not in {None, PowerState.ABSENT},
            "is_down": result.is_down,
            "exchanged": Jsonb([exchange.as_json() for exchange in result.exchanges]),
            "host": stop.host.id,
            "places": places,
        },
    )
    return [
        DueStop(stop_task_id=task, request_id=request_id, cvm_id=cvm_id, host=stop.host_name)
        for task, request_id, cvm_id in rows
    ]
