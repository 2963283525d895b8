"""`/failures`: stops that failed, by reason and one by one, to be tried again as they are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from api.accepted import wake_workers
from api.dependencies import CurrentCaller, Parts, RequestId
from api.pages.dependencies import AskedFor, PostedForm
from api.pages.own_path import own_path
from api.pages.page_route import READ, SignedInPage
from api.pages.refusals import PageRefusedError
from api.pages.rendering import render
from shared.database import transaction
from shared.exceptions import AdminOnlyError, NotFoundError
from shared.models.errors import ErrorCode
from shared.models.pages import StopFilter
from shared.models.states import StopState
from shared.services.failures import group_failures
from shared.services.retries import retry_some
from shared.services.stop_access import require_stop
from shared.services.stop_records import list_stops


if TYPE_CHECKING:
    from api.pages.asked import Asked
    from api.pages.form import Form
    from api.parts import ApiParts
    from shared.models.callers import Caller

router = APIRouter(prefix="/failures", route_class=SignedInPage, include_in_schema=False)

ROWS = 50
"""Failures on a page."""

NOT_YET = "no"

RETRIED = {NOT_YET: False, "yes": True, "all": None}
"""Whether they were tried again: as a rule, those are wanted that nobody has taken care of."""


@router.api_route("", methods=[*READ])
def failures_page(
    request: Request, asked: AskedFor, parts: Parts, caller: CurrentCaller
) -> Response:
    """List the failures that one may see, and group them."""
    wanted = _wanted(asked)
    with transaction(parts.engine) as session:
        found = group_failures(session, caller, wanted)
        page = list_stops(session, caller, wanted, cursor=asked.text("cursor"), limit=ROWS)
        return render(
            request,
            "failures.html",
            wanted=wanted,
            again=asked.again,
            error_codes=[(code, code) for code in ErrorCode],
            found=found,
            stops=page.items,
            here=f"/failures?{asked.again()}",
            next_page=page.next_cursor and asked.again(cursor=page.next_cursor),
            is_first=asked.text("cursor") is None,
        )


@router.post("/retry")
def retry_form(
    request: Request,
    form: PostedForm,
    parts: Parts,
    caller: CurrentCaller,
    request_id: RequestId,
) -> Response:
    """Ask first; then try each of the given stops again, those of one batch in one new batch."""
    stop_ids = _stop_ids(form)
    back = own_path(form.text("back"))
    if form.text("confirmed") != "yes":
        return render(request, "retry_confirm.html", stop_ids=stop_ids, back=back)
    by_batch, refused = _by_batch(parts, caller, stop_ids)
    answers = []
    for batch_id, ids in by_batch.items():
        with transaction(parts.engine) as session:
            answer = retry_some(
                session,
                caller,
                batch_id,
                ids,
                request_id=request_id,
                settings=parts.settings,
                traceparent=parts.tracing.traceparent(),
            )
        wake_workers(parts, answer.to_send)
        answers.append(answer)
    if len(answers) == 1 and not refused and not answers[0].not_retried:
        (answer,) = answers
        return RedirectResponse(
            f"/batches/{answer.batch_id}?retried={answer.retried}", status_code=303
        )
    return render(request, "retried.html", answers=answers, refused=refused, back=back)


def _wanted(asked: Asked) -> StopFilter:
    return StopFilter(
        states=(StopState.FAILED,),
        cvm_id=asked.text("cvm_id"),
        host=asked.text("host"),
        workspace=asked.text("workspace"),
        error_code=asked.choice("error_code", ErrorCode),
        request_id=asked.text("request_id"),
        retried=RETRIED.get(asked.text("retried") or NOT_YET),
        accepted_from=asked.instant("accepted_from"),
        accepted_before=asked.instant("accepted_before"),
    )


def _stop_ids(form: Form) -> list[UUID]:
    try:
        stop_ids = list(dict.fromkeys(UUID(text) for text in form.texts("stop")))
    except ValueError:
        stop_ids = []
    if not 0 < len(stop_ids) <= ROWS:
        raise PageRefusedError(422, "Which stops?", "go back, and send the form of the list")
    return stop_ids


def _by_batch(
    parts: ApiParts, caller: Caller, stop_ids: list[UUID]
) -> tuple[dict[UUID, list[UUID]], list[tuple[UUID, str]]]:
    """Sort them by the batches that they are of; and give those that one may not act on."""
    by_batch: dict[UUID, list[UUID]] = {}
    refused = []
    with transaction(parts.engine) as session:
        for stop_id in stop_ids:
            try:
                batch_id = require_stop(session, caller, stop_id).task.batch_id
            except (AdminOnlyError, NotFoundError) as error:
                refused.append((stop_id, str(error)))
            else:
                by_batch.setdefault(batch_id, []).append(stop_id)
    return by_batch, refused
