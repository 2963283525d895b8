"""`POST /api/v1/cvms/batch-stop`. Its names and texts are the specification's."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from api.accepted import tell_batch, wake_workers
from api.authenticated_route import AuthenticatedRoute
from api.dependencies import CurrentCaller, Parts, RequestId
from api.schemas import BatchStopErrorEntry, BatchStopRequest, BatchStopResponse, PlainText
from shared.database import driver_transaction
from shared.failpoints import Failpoint, reach
from shared.models.batches import BatchRequest
from shared.services.batch_stop import accept_batch, preview_batch


router = APIRouter(prefix="/api/v1/cvms", tags=["CVMs"], route_class=AuthenticatedRoute)

IDEMPOTENCY_KEY_LENGTH = 255
"""Longest `Idempotency-Key`, in characters; a UUID takes 36."""


@router.post(
    "/batch-stop",
    summary="Batch stop CVMs",
    description=(
        "Force stop multiple CVMs at once. Non-admin users can only stop CVMs in their current"
        " workspace. Admin users can stop any CVM. Max 50 per request."
    ),
    response_description="Batch stop summary",
    responses={
        400: {"description": "Invalid request (e.g. too many CVMs)"},
        401: {"description": "Authentication required"},
    },
)
def handle_batch_stop_cvms(
    body: BatchStopRequest,
    response: Response,
    parts: Parts,
    caller: CurrentCaller,
    request_id: RequestId,
    *,
    dry_run: Annotated[bool, Query(include_in_schema=False)] = False,
    idempotency_key: Annotated[
        PlainText | None,
        Header(include_in_schema=False, min_length=1, max_length=IDEMPOTENCY_KEY_LENGTH),
    ] = None,
) -> BatchStopResponse:
    """Write the batch down, then wake a worker for each stop."""
    request = BatchRequest(
        cvm_ids=tuple(body.cvm_ids),
        request_id=request_id,
        idempotency_key=idempotency_key,
        traceparent=parts.tracing.traceparent(),
    )
    with driver_transaction(parts.engine) as connection:
        if dry_run:
            answer = preview_batch(connection, caller, request)
        else:
            answer = accept_batch(connection, caller, request, parts.settings)
    reach(Failpoint.API_COMMITTED)
    wake_workers(parts, answer.to_send)
    tell_batch(response, answer.batch_id)
    return BatchStopResponse(
        total=answer.total,
        stopped=answer.stopped,
        skipped=answer.skipped,
        errors=[
            BatchStopErrorEntry(cvm_id=refused.cvm_id, error=refused.error)
            for refused in answer.errors
        ],
    )
