"""`/api/v1/batches/{id}/events`: a batch's stops, as they go, as server-sent events."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Request, Response

from api.authenticated_route import RATE_LIMITED, AuthenticatedRoute
from api.dependencies import CurrentCaller, Parts
from api.events.opening import open_stream
from api.events.stream import EventStream
from api.openapi import BODY_REFUSED, NOT_FOUND, REFUSALS
from api.schemas import Refusal


router = APIRouter(
    prefix="/api/v1/batches",
    tags=["Batches"],
    route_class=AuthenticatedRoute,
    responses={**REFUSALS, **RATE_LIMITED},
)

DESCRIPTION = """
First how each stop was accepted, then each change of a stop's state that there was, then each one
as it happens, once. When every stop has ended, an event `end`, and the stream ends.

| event | data |
|---|---|
| `stop` | JSON, a `StopEvent` |
| `end` | JSON, an `EndEvent` |

Each has an `id`. Whoever was cut off sends the last one as `Last-Event-ID`, to any process of the
API, and gets every later event, once; after `end` the answer is 204. Events of one stop are in
their order. A comment comes after 15 seconds of silence. The stream ends without an `end` when the
server is stopped (connect again), or when the API key is valid no longer.
"""

EXAMPLE = """\
event: stop
data: {"stop_task_id":"0199a1f0-3f3c-7d52-9c1e-5a86a9b3b001","cvm_id":"cvm_dypcvham",\
"host":"node-7","state":"succeeded","attempt":1,"error_code":null,"at":"2026-07-01T12:00:03.1Z"}
id: 6

event: end
data: {"batch_id":"0199a1f0-3f3c-7d52-9c1e-5a86a9b3b000","counts":{"scheduled":0,"stopping":0,\
"confirming":0,"succeeded":1,"failed":0,"canceled":0}}
id: 6.end

"""

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events, until every stop has ended",
        "content": {EventStream.media_type: {"example": EXAMPLE}},
    },
    204: {"description": "The `end` had been sent already: there is nothing more"},
    400: {"model": Refusal, "description": "The Last-Event-ID is none of this batch's"},
    **NOT_FOUND,
    **BODY_REFUSED,
}


@router.get(
    "/{batch_id}/events",
    summary="Follow a batch live: server-sent events",
    description=DESCRIPTION,
    response_class=Response,  # of no type itself: what is refused is JSON
    responses=ANSWERS,
)
async def follow_batch(
    batch_id: UUID,
    request: Request,
    parts: Parts,
    caller: CurrentCaller,
    last_event_id: Annotated[
        str | None, Header(description="The id of the last event that came")
    ] = None,
) -> Response:
    """Open the stream; 404 for a batch that the caller may not see."""
    return await open_stream(request, parts, caller, batch_id, last_event_id)
