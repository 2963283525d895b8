"""`/health/live` and `/health/ready`: for load balancers and people; no key needed."""

from __future__ import annotations

from enum import StrEnum

from fastapi import APIRouter, Response
from pydantic import BaseModel

from api.dependencies import Parts
from api.openapi import NO_KEY
from shared.database import transaction
from shared.exceptions import BrokerUnavailableError, DatabaseUnavailableError
from shared.schema import schema_problem


router = APIRouter(prefix="/health", tags=["Health"])

OK = "ok"


class Readiness(StrEnum):
    """Whether requests are served."""

    READY = "ready"
    DEGRADED = "degraded"
    """Stops are accepted and written down; workers hear of them once the broker is back."""
    UNAVAILABLE = "unavailable"
    """Requests are answered 503."""


class ReadinessView(BaseModel):
    """Readiness, and what each part says: `ok`, or what is wrong with it."""

    status: Readiness
    database: str
    database_schema: str
    broker: str


@router.get("/live", summary="Whether the process answers", openapi_extra=NO_KEY)
async def live() -> dict[str, str]:
    """Answer; in the event loop, so that it does not wait for a thread."""
    return {"status": "live"}


@router.get(
    "/ready",
    summary="Whether requests are served: 200 when ready or degraded, 503 when not",
    responses={503: {"model": ReadinessView, "description": "Not served"}},
    openapi_extra=NO_KEY,
)
def ready(parts: Parts, response: Response) -> ReadinessView:
    """Ask the database, its schema and the broker: twice `database_timeout` and 2 s at most."""
    database = schema = broker = OK
    try:
        with transaction(parts.engine) as session:
            schema = schema_problem(session) or OK
    except DatabaseUnavailableError as error:
        database, schema = str(error), "unknown"
    try:
        parts.broker.count_waiting()
    except BrokerUnavailableError as error:
        broker = str(error)
    if (database, schema) != (OK, OK):
        status = Readiness.UNAVAILABLE
        response.status_code = 503
    else:
        status = Readiness.READY if broker == OK else Readiness.DEGRADED
    return ReadinessView(status=status, database=database, database_schema=schema, broker=broker)
