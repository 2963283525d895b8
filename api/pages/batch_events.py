"""`/batches/{id}/events`: what the page of a batch follows, with the page's cookie."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Request, Response

from api.dependencies import CurrentCaller, Parts
from api.events.opening import open_stream
from api.pages.page_route import SignedInPage
from api.pages.session_cookie import session_token
from shared.api_keys import digest


router = APIRouter(route_class=SignedInPage, include_in_schema=False)


@router.get("/batches/{batch_id}/events")
async def batch_events(
    batch_id: UUID,
    request: Request,
    parts: Parts,
    caller: CurrentCaller,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Open the same stream as the API does; 404 for a batch that one may not see."""
    session = digest(session_token(request) or "")
    return await open_stream(request, parts, caller, batch_id, last_event_id, page_session=session)
