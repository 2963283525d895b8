"""`/batches/{id}`: every CVM of a batch as a cell, its failures, and what can be done."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from api.accepted import wake_workers
from api.canceled import note_canceled
from api.dependencies import CurrentCaller, Parts, RequestId
from api.pages.dependencies import AskedFor
from api.pages.page_route import READ, SignedInPage
from api.pages.rendering import render
from shared.database import transaction
from shared.models.states import OPEN_STATES, StopState
from shared.services.canceling import cancel_batch
from shared.services.retries import retry_batch
from shared.services.stop_records import find_batch
from shared.storage.stop_records import StopRecord


router = APIRouter(prefix="/batches/{batch_id}", route_class=SignedInPage, include_in_schema=False)


@router.api_route("", methods=[*READ])
def batch_page(
    batch_id: UUID, request: Request, asked: AskedFor, parts: Parts, caller: CurrentCaller
) -> Response:
    """Show a batch; 404 for one that one may not see."""
    with transaction(parts.engine) as session:
        progress, stops = find_batch(session, caller, batch_id)
        stops.sort(key=lambda stop: (stop.host, stop.cvm_id))
        return render(
            request,
            "batch.html",
            batch=progress.record.batch,
            user=progress.record.user,
            workspace=progress.record.workspace,
            counts=progress.counts,
            open=sum(progress.counts[state] for state in OPEN_STATES),
            stops=stops,
            failed=[stop for stop in stops if stop.task.state == StopState.FAILED],
            troubled=_troubled(stops),
            done={name: asked.number(name) for name in ("accepted", "retried", "canceled")},
        )


@router.post("/retry")
def retry_batch_form(
    batch_id: UUID, request: Request, parts: Parts, caller: CurrentCaller, request_id: RequestId
) -> Response:
    """Try its failed stops again, and go to the new batch."""
    with transaction(parts.engine) as session:
        answer = retry_batch(
            session,
            caller,
            batch_id,
            request_id=request_id,
            settings=parts.settings,
            traceparent=parts.tracing.traceparent(),
        )
    wake_workers(parts, answer.to_send)
    if answer.batch_id is not None and not answer.not_retried:
        return RedirectResponse(
            f"/batches/{answer.batch_id}?retried={answer.retried}", status_code=303
        )
    return render(
        request, "retried.html", answers=[answer], refused=[], back=f"/batches/{batch_id}"
    )


@router.post("/cancel")
def cancel_batch_form(batch_id: UUID, parts: Parts, caller: CurrentCaller) -> Response:
    """Cancel what can be canceled; the page shows what goes on."""
    with transaction(parts.engine) as session:
        answer = cancel_batch(session, caller, batch_id)
    note_canceled(parts, answer.canceled, batch_id=batch_id)
    return RedirectResponse(f"/batches/{batch_id}?canceled={answer.canceled}", status_code=303)


def _troubled(stops: list[StopRecord]) -> list[tuple[StopRecord, int]]:
    """Group the stops that are open and have met an error by what it was: one of each, how many."""
    open_ones = [stop for stop in stops if stop.task.state in OPEN_STATES and stop.task.error_code]
    counts = Counter((stop.host, stop.task.error_code) for stop in open_ones)
    samples = {(stop.host, stop.task.error_code): stop for stop in open_ones}
    return [(samples[reason], count) for reason, count in counts.most_common()]
