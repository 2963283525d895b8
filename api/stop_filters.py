"""The filters of stop tasks, as they stand in a query: the same wherever there are some."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query

from api.schemas import Instant, PlainText
from shared.models.errors import ErrorCode
from shared.models.pages import StopFilter
from shared.storage.stop_conditions import BATCHES_OF_A_REQUEST


RequestIdFilter = Annotated[
    PlainText | None,
    Query(
        description="`X-Request-ID` of the request that asked, which log lines have; of the newest"
        f" {BATCHES_OF_A_REQUEST:,} batches, should a client always send the same"
    ),
]

RetriedFilter = Annotated[
    bool | None,
    Query(
        description="Whether it was tried again, whatever came of that: the retry is a stop task"
        " of its own. With `false`, what failed is what nobody has dealt with yet"
    ),
]


async def _stop_filter(  # noqa: PLR0913 - FastAPI takes each filter as an argument
    *,
    cvm_id: PlainText | None = None,
    host: PlainText | None = None,
    batch_id: UUID | None = None,
    workspace: PlainText | None = None,
    error_code: ErrorCode | None = None,
    accepted_from: Annotated[Instant | None, Query(description="ISO 8601 with a time zone")] = None,
    accepted_before: Annotated[
        Instant | None, Query(description="ISO 8601 with a time zone")
    ] = None,
    request_id: RequestIdFilter = None,
    retried: RetriedFilter = None,
) -> StopFilter:
    return StopFilter(
        cvm_id=cvm_id,
        host=host,
        batch_id=batch_id,
        workspace=workspace,
        error_code=error_code,
        accepted_from=accepted_from,
        accepted_before=accepted_before,
        request_id=request_id,
        retried=retried,
    )


WantedStops = Annotated[StopFilter, Depends(_stop_filter)]
"""Every filter but the one by states."""
