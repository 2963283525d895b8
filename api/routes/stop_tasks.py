"""`/api/v1/stop-tasks`: every stop, with every try and what the host said."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from api.accepted import tell_batch, wake_workers
from api.action_schemas import CancelView, RetryView, cancel_view, retry_view
from api.authenticated_route import RATE_LIMITED, AuthenticatedRoute
from api.canceled import note_canceled
from api.dependencies import CurrentCaller, Parts, RequestId
from api.openapi import AN_ADMINS_STOP, INVALID_CURSOR, NOT_FOUND, REFUSALS
from api.schemas import (
    AttemptView,
    FailureGroupList,
    FailureGroupView,
    StopTaskDetail,
    StopTaskPage,
    StopTaskView,
)
from api.stop_filters import WantedStops
from api.views import attempt_fields, stop_fields
from shared.database import transaction
from shared.models.states import StopState
from shared.services.canceling import cancel_stop
from shared.services.failures import group_failures
from shared.services.retries import retry_stop
from shared.services.stop_records import find_stop, list_stops


router = APIRouter(
    prefix="/api/v1/stop-tasks",
    tags=["Stop tasks"],
    route_class=AuthenticatedRoute,
    responses={**REFUSALS, **RATE_LIMITED},
)


@router.get("", summary="List stop tasks, newest first", responses=INVALID_CURSOR)
def list_stop_tasks(
    parts: Parts,
    caller: CurrentCaller,
    wanted: WantedStops,
    *,
    state: Annotated[list[StopState] | None, Query(description="May be repeated")] = None,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> StopTaskPage:
    """List the stop tasks on CVMs of the key's workspace; an admin sees all."""
    wanted = replace(wanted, states=tuple(state or ()))
    with transaction(parts.engine) as session:
        page = list_stops(session, caller, wanted, cursor=cursor, limit=limit)
        return StopTaskPage(
            items=[StopTaskView(**stop_fields(record)) for record in page.items],
            next_cursor=page.next_cursor,
        )


@router.get("/groups", summary="Failed stop tasks by reason and host")
def group_stop_tasks(parts: Parts, caller: CurrentCaller, wanted: WantedStops) -> FailureGroupList:
    """Count what failed, the biggest group first: of the key's workspace, or all for an admin."""
    with transaction(parts.engine) as session:
        found = group_failures(session, caller, wanted)
    return FailureGroupList(
        groups=[FailureGroupView(**asdict(group)) for group in found.groups],
        counted=found.counted,
        left_out=found.left_out,
        is_cut_off=found.is_cut_off,
    )


@router.get("/{stop_task_id}", summary="One stop task with every attempt", responses=NOT_FOUND)
def get_stop_task(stop_task_id: UUID, parts: Parts, caller: CurrentCaller) -> StopTaskDetail:
    """Show a stop task; 404 for one that the caller may not see."""
    with transaction(parts.engine) as session:
        record, attempts = find_stop(session, caller, stop_task_id)
        return StopTaskDetail(
            **stop_fields(record),
            attempt_log=[AttemptView(**attempt_fields(attempt)) for attempt in attempts],
        )


@router.post(
    "/{stop_task_id}/retry",
    summary="Try a stop that failed or was canceled again",
    responses={**NOT_FOUND, **AN_ADMINS_STOP},
)
def retry_stop_task(
    stop_task_id: UUID,
    response: Response,
    parts: Parts,
    caller: CurrentCaller,
    request_id: RequestId,
) -> RetryView:
    """Accept a new stop that points to this one, in a new batch; this one stays as it is."""
    with transaction(parts.engine) as session:
        answer = retry_stop(
            session,
            caller,
            stop_task_id,
            request_id=request_id,
            settings=parts.settings,
            traceparent=parts.tracing.traceparent(),
        )
    wake_workers(parts, answer.to_send)
    tell_batch(response, answer.batch_id)
    return retry_view(answer)


@router.post(
    "/{stop_task_id}/cancel",
    summary="Cancel a stop that no worker has and no host took",
    responses={**NOT_FOUND, **AN_ADMINS_STOP},
)
def cancel_stop_task(stop_task_id: UUID, parts: Parts, caller: CurrentCaller) -> CancelView:
    """Cancel it, or say why it goes on."""
    with transaction(parts.engine) as session:
        answer = cancel_stop(session, caller, stop_task_id)
    note_canceled(parts, answer.canceled, stop_task_id=stop_task_id)
    return cancel_view(answer)
