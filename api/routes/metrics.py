"""`/metrics`: for Prometheus, with a token of its own."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request, Response

from api.dependencies import Parts
from shared.exceptions import AuthenticationError
from shared.metrics import CONTENT_TYPE, make_page, may_scrape


router = APIRouter()


@router.get("/metrics", include_in_schema=False)
def metrics(parts: Parts, request: Request) -> Response:
    """Give this process's counts, and what the rows know.

    The token is compared before anything else is done: whoever has none costs no query.
    """
    token = parts.settings.metrics_token
    if token is None:
        raise HTTPException(404, "there are no metrics here: CVMSTOP_METRICS_TOKEN is not set")
    if not may_scrape(token, request.headers.get("authorization", "")):
        msg = "the metrics token is wanted here, as Authorization: Bearer"
        raise AuthenticationError(msg)
    page = make_page(parts.metrics.registry)
    return Response(page, headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})
