"""`/api/v1/batches`: what was asked, and how far it is."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from api.accepted import tell_batch, wake_workers
from api.action_schemas import CancelView, RetryView, cancel_view, retry_view
from api.authenticated_route import RATE_LIMITED, AuthenticatedRoute
from api.canceled import note_canceled
from api.dependencies import CurrentCaller, Parts, RequestId
from api.openapi import INVALID_CURSOR, NOT_FOUND, REFUSALS
from api.schemas import BatchDetail, BatchPage, BatchView, StopTaskView
from api.views import batch_fields, stop_fields
from shared.database import transaction
from shared.services.canceling import cancel_batch
from shared.services.retries import retry_batch
from shared.services.stop_records import find_batch, list_batches


router = APIRouter(
    prefix="/api/v1/batches",
    tags=["Batches"],
    route_class=AuthenticatedRoute,
    responses={**REFUSALS, **RATE_LIMITED},
)


@router.get("", summary="List batches, newest first", responses=INVALID_CURSOR)
def list_batches_route(
    parts: Parts,
    caller: CurrentCaller,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> BatchPage:
    """List the batches of the key's workspace; an admin sees everybody's."""
    with transaction(parts.engine) as session:
        page = list_batches(session, caller, cursor=cursor, limit=limit)
        return BatchPage(
            items=[BatchView(**batch_fields(batch)) for batch in page.items],
            next_cursor=page.next_cursor,
        )


@router.get(
    "/{batch_id}", summary="One batch, its counts by state, and its stop tasks", responses=NOT_FOUND
)
def get_batch(batch_id: UUID, parts: Parts, caller: CurrentCaller) -> BatchDetail:
    """Show a batch; 404 for one that the caller may not see."""
    with transaction(parts.engine) as session:
        progress, tasks = find_batch(session, caller, batch_id)
        return BatchDetail(
            **batch_fields(progress), tasks=[StopTaskView(**stop_fields(task)) for task in tasks]
        )


@router.post(
    "/{batch_id}/retry", summary="Try the failed stops of a batch again", responses=NOT_FOUND
)
def retry_batch_route(
    batch_id: UUID, response: Response, parts: Parts, caller: CurrentCaller, request_id: RequestId
) -> RetryView:
    """Accept a new stop for each, in a new batch; 404 for a batch that the caller may not see."""
    with transaction(parts.engine) as session:
        answer = retry_batch(
            session,
            caller,
            batch_id,
            request_id=request_id,
            settings=parts.settings,
            traceparent=parts.tracing.traceparent(),
        )
    wake_workers(parts, answer.to_send)
    tell_batch(response, answer.batch_id)
    return retry_view(answer)


@router.post(
    "/{batch_id}/cancel",
    summary="Cancel the stops of a batch that no worker has and no host took",
    responses=NOT_FOUND,
)
def cancel_batch_route(batch_id: UUID, parts: Parts, caller: CurrentCaller) -> CancelView:
    """Cancel what can be of those that have not ended, and say what of them goes on."""
    with transaction(parts.engine) as session:
        answer = cancel_batch(session, caller, batch_id)
    note_canceled(parts, answer.canceled, batch_id=batch_id)
    return cancel_view(answer)
