"""`/api/v1/cvms`: what there is, as it was seen last, and what runs though it was stopped."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query

from api.authenticated_route import RATE_LIMITED, AuthenticatedRoute
from api.dependencies import CurrentCaller, Parts
from api.openapi import INVALID_CURSOR, NOT_FOUND, REFUSALS
from api.schemas import CvmPage, CvmView, PlainText
from api.views import cvm_fields
from shared.database import transaction
from shared.models.pages import CvmFilter
from shared.services.cvms import find_cvm, page_of_cvms


router = APIRouter(
    prefix="/api/v1/cvms",
    tags=["CVMs"],
    route_class=AuthenticatedRoute,
    responses={**REFUSALS, **RATE_LIMITED},
)

BATCH_STOP = "batch-stop"
"""What stands where a CVM's id does, in the path of another operation. No id is like it."""


@router.get("", summary="List CVMs, by id", responses=INVALID_CURSOR)
def list_cvms(  # noqa: PLR0913 - FastAPI takes each filter as an argument
    parts: Parts,
    caller: CurrentCaller,
    *,
    workspace: PlainText | None = None,
    host: PlainText | None = None,
    status: PlainText | None = None,
    drifted: Annotated[
        bool | None, Query(description="Whether it runs though its stop has succeeded")
    ] = None,
    in_progress: bool | None = None,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> CvmPage:
    """List the CVMs of the key's workspace; an admin sees all.

    A page may have fewer than `limit`, or none, and a `next_cursor` all the same.
    """
    wanted = CvmFilter(
        workspace=workspace, host=host, status=status, drifted=drifted, in_progress=in_progress
    )
    with transaction(parts.engine) as session:
        page = page_of_cvms(session, caller, wanted, cursor=cursor, limit=limit)
    return CvmPage(
        items=[CvmView(**cvm_fields(row)) for row in page.items], next_cursor=page.next_cursor
    )


@router.get("/{cvm_id}", summary="One CVM", responses=NOT_FOUND)
def get_cvm(cvm_id: PlainText, parts: Parts, caller: CurrentCaller) -> CvmView:
    """Show a CVM; 404 for one that the caller may not see."""
    if cvm_id == BATCH_STOP:
        raise HTTPException(405, headers={"Allow": "POST"})
    with transaction(parts.engine) as session:
        row = find_cvm(session, caller, cvm_id)
    return CvmView(**cvm_fields(row))
