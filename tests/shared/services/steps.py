"""A turn's two ends, one at a time, and what the rows say after each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select, text

from shared.database import driver_transaction, transaction
from shared.models.errors import ErrorCode, Fate
from shared.models.states import PowerState
from shared.models.turns import Claim, Exchange, Failure, Refusal, TurnResult
from shared.services.stops import ClaimedStop, Settled, claim_stop, settle_stop
from shared.tables import Cvm, StopTask


if TYPE_CHECKING:
    from uuid import UUID

    from tests.shared.conftest import Yard

ASKED = (Exchange(request="GetInfo", answer="200 {}", seconds=0.01),)
DOWN = TurnResult(power_state=PowerState.STOPPED, is_down=True, force_stopped=True, exchanges=ASKED)
NOT_YET = TurnResult(power_state=PowerState.STOPPING, force_stopped=True, exchanges=ASKED)


def failure(fate: Fate, code: ErrorCode = ErrorCode.HOST_ERROR) -> TurnResult:
    return TurnResult(
        power_state=None,
        failure=Failure(code=code, fate=fate, message="it said no"),
        exchanges=() if code is ErrorCode.INTERNAL else ASKED,
    )


def claim(yard: Yard, task: UUID) -> Claim | Refusal:
    with driver_transaction(yard.engine) as connection:
        claimed = claim_stop(connection, task, worker="w1", settings=yard.settings)
        return claimed.claim if isinstance(claimed, ClaimedStop) else claimed


def got(yard: Yard, task: UUID) -> Claim:
    claimed = claim(yard, task)
    assert isinstance(claimed, Claim)
    return claimed


def refuse(yard: Yard, tasks: list[UUID]) -> None:
    """Let the messages of some stops come to a host that is full."""
    assert {claim(yard, task) for task in tasks} == {Refusal.HOST_AT_CAP}


def settle(yard: Yard, claimed: Claim, result: TurnResult) -> Settled | None:
    with driver_transaction(yard.engine) as connection:
        return settle_stop(connection, claimed, result, settings=yard.settings)


def row(yard: Yard, task: UUID) -> StopTask:
    with transaction(yard.engine) as session:
        found = session.get_one(StopTask, task)
        session.expunge_all()
        return found


def alter(yard: Yard, task: UUID, change: str) -> None:
    """Change a stop's row behind everybody's back."""
    with transaction(yard.engine) as session:
        session.execute(text(f"UPDATE stop_tasks SET {change} WHERE id = :task"), {"task": task})  # noqa: S608 - the test's own text


def is_in_progress(yard: Yard, task: UUID) -> bool:
    with transaction(yard.engine) as session:
        found = session.scalar(select(Cvm.in_progress).join(StopTask).where(StopTask.id == task))
    assert found is not None
    return found
