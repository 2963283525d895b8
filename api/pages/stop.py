"""`/stops/{id}`: one stop, with what was sent to its host in each try, and what that answered."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any
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
from shared.models.states import OPEN_STATES, WAITING_STATES, StopState
from shared.services.canceling import cancel_stop
from shared.services.retries import retry_stop
from shared.services.stop_records import find_stop


if TYPE_CHECKING:
    from shared.tables import StopAttempt

router = APIRouter(
    prefix="/stops/{stop_task_id}", route_class=SignedInPage, include_in_schema=False
)


@router.api_route("", methods=[*READ])
def stop_page(
    stop_task_id: UUID, request: Request, asked: AskedFor, parts: Parts, caller: CurrentCaller
) -> Response:
    """Show a stop; 404 for one that one may not see."""
    with transaction(parts.engine) as session:
        stop, attempts = find_stop(session, caller, stop_task_id)
        state = stop.task.state
        return render(
            request,
            "stop.html",
            stop=stop,
            attempts=[(attempt, _exchanges(attempt)) for attempt in attempts],
            is_open=state in OPEN_STATES,
            may_cancel=state in WAITING_STATES and stop.task.force_stopped_at is None,
            may_retry=state in {StopState.FAILED, StopState.CANCELED} and not stop.retried_by,
            canceled=asked.number("canceled"),
        )


@router.post("/retry")
def retry_stop_form(
    stop_task_id: UUID,
    request: Request,
    parts: Parts,
    caller: CurrentCaller,
    request_id: RequestId,
) -> Response:
    """Try it again, and go to the new batch."""
    with transaction(parts.engine) as session:
        answer = retry_stop(
            session,
            caller,
            stop_task_id,
            request_id=request_id,
            settings=parts.settings,
            traceparent=parts.tracing.traceparent(),
        )
    wake_workers(parts, answer.to_send)
    if answer.batch_id is not None:
        return RedirectResponse(f"/batches/{answer.batch_id}?retried=1", status_code=303)
    return render(
        request, "retried.html", answers=[answer], refused=[], back=f"/stops/{stop_task_id}"
    )


@router.post("/cancel")
def cancel_stop_form(stop_task_id: UUID, parts: Parts, caller: CurrentCaller) -> Response:
    """Cancel it if that is possible still."""
    with transaction(parts.engine) as session:
        answer = cancel_stop(session, caller, stop_task_id)
    note_canceled(parts, answer.canceled, stop_task_id=stop_task_id)
    return RedirectResponse(f"/stops/{stop_task_id}?canceled={answer.canceled}", status_code=303)


def _exchanges(attempt: StopAttempt) -> list[dict[str, Any]]:
    """Give what was sent and answered, the same again and again as one: looks come by the dozen."""
    told = []
    same = groupby(attempt.exchanges, key=itemgetter("request", "answer"))
    for (request, answer), exchanges in same:
        seconds = [exchange["seconds"] for exchange in exchanges]
        told.append(
            {
                "request": request,
                "answer": answer,
                "times": len(seconds),
                "seconds": max(seconds),
            }
        )
    return told
