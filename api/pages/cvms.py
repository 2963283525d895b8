"""`/cvms`: what there is, to look at and to choose from."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.dependencies import CurrentCaller, Parts
from api.pages.dependencies import AskedFor
from api.pages.page_route import READ, SignedInPage
from api.pages.rendering import render
from shared.database import transaction
from shared.models.pages import CvmFilter, StopFilter
from shared.services.cvms import find_cvm, page_of_cvms
from shared.services.stop_records import list_stops


router = APIRouter(prefix="/cvms", route_class=SignedInPage, include_in_schema=False)

ROWS = 100
"""CVMs on a page: two batches."""

STOPS = 50
"""Stops of one CVM on a page."""


@router.api_route("", methods=[*READ])
def cvms_page(request: Request, asked: AskedFor, parts: Parts, caller: CurrentCaller) -> Response:
    """List the CVMs that one may see."""
    wanted = CvmFilter(
        workspace=asked.text("workspace"),
        host=asked.text("host"),
        status=asked.text("status"),
        drifted=asked.yes_or_no("drifted"),
        in_progress=asked.yes_or_no("in_progress"),
    )
    with transaction(parts.engine) as session:
        page = page_of_cvms(session, caller, wanted, cursor=asked.text("cursor"), limit=ROWS)
    return render(
        request,
        "cvms.html",
        cvms=page.items,
        wanted=wanted,
        next_page=page.next_cursor and asked.again(cursor=page.next_cursor),
        is_first=asked.text("cursor") is None,
    )


@router.api_route("/{cvm_id}", methods=[*READ])
def cvm_page(
    cvm_id: str, request: Request, asked: AskedFor, parts: Parts, caller: CurrentCaller
) -> Response:
    """Show a CVM with its stops; 404 for one that one may not see."""
    with transaction(parts.engine) as session:
        row = find_cvm(session, caller, cvm_id.replace("\x00", "\ufffd"))
        page = list_stops(
            session,
            caller,
            StopFilter(cvm_id=row["id"]),
            cursor=asked.text("cursor"),
            limit=STOPS,
        )
        return render(
            request,
            "cvm.html",
            cvm=row,
            may_be_stopped=not row["in_progress"]
            and row["vm_uuid"] is not None
            and row["gpu_rental_order"] is None,
            stops=page.items,
            next_page=page.next_cursor and asked.again(cursor=page.next_cursor),
        )
