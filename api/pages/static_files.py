"""`/static`: the one style sheet and the one script."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, Response

from api.pages.page_route import READ, OpenPage
from api.pages.rendering import HEADERS


router = APIRouter(route_class=OpenPage, include_in_schema=False)

FILES = {"page.css": "text/css", "page.js": "text/javascript"}
"""By name: what they are. Nothing else is served, whatever lies beside them."""

PLACE = Path(__file__).parent / "static"


@router.api_route("/static/{name}", methods=[*READ])
def static_file(name: str, request: Request) -> Response:
    """Give one of them; kept by browsers, who ask each time whether it is the same still."""
    if name not in FILES:
        raise HTTPException(404)
    file = PLACE / name
    headers = {**HEADERS, "Cache-Control": "no-cache"}
    response = FileResponse(file, stat_result=file.stat(), media_type=FILES[name], headers=headers)
    etag = response.headers["etag"]
    if request.headers.get("if-none-match") == etag:
        # With the same headers: browsers put them in the place of those that they have (RFC 9111,
        # section 3.2), and a page's would have them forget the file.
        return Response(status_code=304, headers={**headers, "ETag": etag})
    return response
