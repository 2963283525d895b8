"""`/batches`: what was asked, newest first."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.dependencies import CurrentCaller, Parts
from api.pages.dependencies import AskedFor
from api.pages.page_route import READ, SignedInPage
from api.pages.rendering import render
from shared.database import transaction
from shared.services.stop_records import list_batches


router = APIRouter(route_class=SignedInPage, include_in_schema=False)

ROWS = 50
"""Batches on a page."""


@router.api_route("/batches", methods=[*READ])
def batches_page(
    request: Request, asked: AskedFor, parts: Parts, caller: CurrentCaller
) -> Response:
    """List the batches that one may see."""
    with transaction(parts.engine) as session:
        page = list_batches(session, caller, cursor=asked.text("cursor"), limit=ROWS)
        return render(
            request,
            "batches.html",
            batches=page.items,
            next_page=page.next_cursor and asked.again(cursor=page.next_cursor),
            is_first=asked.text("cursor") is None,
            accepted=asked.number("accepted"),
        )
