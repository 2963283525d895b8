"""Taking stops back that no worker has begun with, or that wait to be tried again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.models.actions import CancelAnswer, NotDone, Obstacle
from shared.models.states import OPEN_STATES, StopState
from shared.services.stop_access import require_batch, require_stop
from shared.storage import canceling as storage
from shared.storage.stop_records import find_in_states


if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy.orm import Session

    from shared.models.callers import Caller
    from shared.storage.canceling import StandingStop


def cancel_stop(session: Session, caller: Caller, stop_task_id: UUID) -> CancelAnswer:
    """Cancel one stop, if it can be.

    Raises
    ------
    NotFoundError
        There is none of that id that the caller may see.
    AdminOnlyError
        An admin asked for it, and the caller is none.
    """
    require_stop(session, caller, stop_task_id)
    return _cancel(session, [stop_task_id])


def cancel_batch(session: Session, caller: Caller, batch_id: UUID) -> CancelAnswer:
    """Cancel what can be of a batch's stops that have not ended.

    Raises
    ------
    NotFoundError
        There is none of that id that the caller may see.
    """
    require_batch(session, caller, batch_id)
    return _cancel(session, find_in_states(session, batch_id, *OPEN_STATES))


def _cancel(session: Session, stop_task_ids: Sequence[UUID]) -> CancelAnswer:
    canceled = storage.cancel(session, stop_task_ids)
    rest = [each for each in stop_task_ids if each not in canceled]
    not_canceled = tuple(
        NotDone(stop_task_id=stop.stop_task_id, cvm_id=stop.cvm_id, obstacle=_obstacle(stop))
        for stop in storage.read_standing(session, rest)
    )
    return CancelAnswer(
        total=len(canceled) + len(not_canceled), canceled=len(canceled), not_canceled=not_canceled
    )


def _obstacle(stop: StandingStop) -> Obstacle:
    if stop.state not in OPEN_STATES:
        return Obstacle.ENDED
    if stop.was_force_stopped and stop.state != StopState.STOPPING:
        return Obstacle.FORCE_STOPPED
    # One that was given back by its worker in this moment was with it when it was asked for.
    return Obstacle.BEING_WORKED_ON
