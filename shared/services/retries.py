"""Trying stops again that failed or were canceled: each a new stop, in a new batch.

What ended stays as it is. The new stops are accepted as those of a batch stop are: under the locks
of their CVMs' rows, by the rules that a batch stop skips and refuses by, in the same statement.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from shared.database import driver_of
from shared.exceptions import NotFoundError
from shared.models.actions import NotDone, Obstacle, RetryAnswer
from shared.models.batches import BatchAnswer, BatchRequest, RefusedCvm
from shared.models.states import StopState
from shared.services.stop_access import require_batch, require_stop
from shared.storage.batches import Retries, add_batch
from shared.storage.retries import lock_for_retry
from shared.storage.stop_records import find_in_states


if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy.orm import Session

    from shared.models.callers import Caller
    from shared.settings import ApiSettings
    from shared.storage.retries import EndedStop


def retry_stop(
    session: Session,
    caller: Caller,
    stop_task_id: UUID,
    *,
    request_id: str,
    settings: ApiSettings,
    traceparent: str | None = None,
) -> RetryAnswer:
    """Try one stop again; the caller commits and then sends `to_send`.

    Raises
    ------
    NotFoundError
        There is none of that id that the caller may see.
    AdminOnlyError
        An admin asked for it, and the caller is none.
    """
    batch_id = require_stop(session, caller, stop_task_id).task.batch_id
    request = BatchRequest(cvm_ids=(), request_id=request_id, traceparent=traceparent)
    return _retry(session, caller, batch_id, [stop_task_id], request, settings)


def retry_batch(
    session: Session,
    caller: Caller,
    batch_id: UUID,
    *,
    request_id: str,
    settings: ApiSettings,
    traceparent: str | None = None,
) -> RetryAnswer:
    """Try the failed stops of a batch again; the caller commits and then sends `to_send`.

    Raises
    ------
    NotFoundError
        There is none of that id that the caller may see.
    """
    require_batch(session, caller, batch_id)
    failed = find_in_states(session, batch_id, StopState.FAILED)
    request = BatchRequest(cvm_ids=(), request_id=request_id, traceparent=traceparent)
    return _retry(session, caller, batch_id, failed, request, settings)


def retry_some(
    session: Session,
    caller: Caller,
    batch_id: UUID,
    stop_task_ids: Sequence[UUID],
    *,
    request_id: str,
    settings: ApiSettings,
    traceparent: str | None = None,
) -> RetryAnswer:
    """Try some stops of one batch again; the caller commits and then sends `to_send`.

    Raises
    ------
    NotFoundError
        One of them is not in that batch, or not there for the caller to see.
    AdminOnlyError
        An admin asked for them, and the caller is none.
    """
    for stop_task_id in stop_task_ids:
        if require_stop(session, caller, stop_task_id).task.batch_id != batch_id:
            msg = f"no stop task {stop_task_id} in batch {batch_id}"
            raise NotFoundError(msg)
    request = BatchRequest(cvm_ids=(), request_id=request_id, traceparent=traceparent)
    return _retry(session, caller, batch_id, stop_task_ids, request, settings)


def _retry(
    session: Session,
    caller: Caller,
    batch_id: UUID,
    stop_task_ids: Sequence[UUID],
    request: BatchRequest,
    settings: ApiSettings,
) -> RetryAnswer:
    """Try stops again, for a request whose CVMs are those of the stops."""
    stops = lock_for_retry(session, stop_task_ids)
    obstacles = {stop.stop_task_id: _obstacle(stop, caller) for stop in stops}
    again = [stop for stop in stops if obstacles[stop.stop_task_id] is None]
    not_retried = tuple(
        NotDone(stop_task_id=stop.stop_task_id, cvm_id=stop.cvm_id, obstacle=obstacle)
        for stop in stops
        if (obstacle := obstacles[stop.stop_task_id]) is not None
    )
    if not again:
        return RetryAnswer(batch_id=None, total=len(stops), retried=0, not_retried=not_retried)
    errors = [each for each in not_retried if each.obstacle.is_an_error]
    answer = add_batch(
        driver_of(session),
        caller,
        replace(request, cvm_ids=tuple(stop.cvm_id for stop in stops)),
        BatchAnswer(
            batch_id=None,
            total=len(stops),
            stopped=len(again),
            skipped=len(not_retried) - len(errors),
            errors=tuple(
                RefusedCvm(cvm_id=each.cvm_id, error=each.obstacle.message) for each in errors
            ),
        ),
        {stop.cvm: stop.cvm_id for stop in again},
        deadline=timedelta(seconds=settings.stop_deadline),
        retries=Retries(batch=batch_id, stops=[stop.stop_task_id for stop in again]),
    )
    return RetryAnswer(
        batch_id=answer.batch_id,
        total=len(stops),
        retried=len(again),
        not_retried=not_retried,
        to_send=answer.to_send,
    )


def _obstacle(stop: EndedStop, caller: Caller) -> Obstacle | None:
    """Say what is in the way of trying a stop again: its own state, then its CVM as it is today."""
    if stop.state not in {StopState.FAILED, StopState.CANCELED}:
        return Obstacle.NOT_FAILED
    # The first of those about the CVM: of one that was moved to others nothing more is told (I6).
    rules = {
        Obstacle.CVM_NOT_FOUND: caller.sees_only not in {None, stop.workspace_id},
        Obstacle.IN_PROGRESS: stop.in_progress,
        Obstacle.NO_VM: not stop.has_vm,
        Obstacle.GPU_RENTAL: stop.is_rented,
        Obstacle.HOST_DISABLED: stop.host_is_disabled,
        Obstacle.STOPPED_SINCE: stop.newest_state == StopState.SUCCEEDED,
    }
    return next((obstacle for obstacle, applies in rules.items() if applies), None)
