"""`/new`: which CVMs to stop, what would become of each, and only then the stop."""

from __future__ import annotations

import re
from itertools import count
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from api.accepted import wake_workers
from api.dependencies import CurrentCaller, Parts, RequestId
from api.pages.chosen_ids import MOST, batches_of, read_ids
from api.pages.dependencies import PostedForm
from api.pages.page_route import READ, STALE_FORM, SignedInPage
from api.pages.refusals import PageRefusedError
from api.pages.rendering import render
from shared.database import driver_transaction, transaction
from shared.models.batches import MAX_BATCH, BatchAnswer, BatchRequest
from shared.services.batch_stop import accept_batch
from shared.services.previews import Verdict, preview_cvms


router = APIRouter(prefix="/new", route_class=SignedInPage, include_in_schema=False)

ONCE = re.compile(r"[0-9a-f-]{36}")
"""What a preview's form has: the beginning of its batches' Idempotency-Keys."""


@router.api_route("", methods=[*READ])
def new_page(request: Request) -> Response:
    """Ask for ids."""
    return render(request, "new.html", most=MOST, batch_size=MAX_BATCH)


@router.post("/preview")
def preview_page(
    request: Request, form: PostedForm, parts: Parts, caller: CurrentCaller
) -> Response:
    """Show what would be stopped, skipped and refused; nothing is done."""
    cvm_ids = read_ids(form)
    with transaction(parts.engine) as session:
        previewed = preview_cvms(session, caller, cvm_ids)
    return render(
        request,
        "preview.html",
        previewed=previewed,
        counts={verdict: sum(each.verdict is verdict for each in previewed) for verdict in Verdict},
        batches=len(list(batches_of(cvm_ids))),
        batch_size=MAX_BATCH,
        ids=" ".join(cvm_ids),
        once=str(uuid4()),
    )


@router.post("")
def stop_form(
    form: PostedForm,
    parts: Parts,
    caller: CurrentCaller,
    request_id: RequestId,
) -> Response:
    """Accept it, batch after batch. Sent twice, it is accepted once: the form has its own key."""
    once = form.text("once")
    if not ONCE.fullmatch(once):
        raise PageRefusedError(400, "Not sent", STALE_FORM)
    answers: list[BatchAnswer] = []
    for number, cvm_ids in zip(count(1), batches_of(read_ids(form)), strict=False):
        batch = BatchRequest(
            cvm_ids=cvm_ids,
            request_id=request_id,
            idempotency_key=f"page {once} {number}",
            traceparent=parts.tracing.traceparent(),
        )
        with driver_transaction(parts.engine) as connection:
            answer = accept_batch(connection, caller, batch, parts.settings)
        wake_workers(parts, answer.to_send)
        answers.append(answer)
    stopped = sum(answer.stopped for answer in answers)
    if len(answers) == 1:
        return RedirectResponse(
            f"/batches/{answers[0].batch_id}?accepted={stopped}", status_code=303
        )
    return RedirectResponse(f"/batches?accepted={stopped}", status_code=303)
