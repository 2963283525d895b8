"""`/api/v1/webhooks`: who is told of stops that end, and how that went."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import structlog
from fastapi import APIRouter, Query

from api.authenticated_route import RATE_LIMITED, AuthenticatedRoute
from api.dependencies import CurrentCaller, Parts
from api.openapi import (
    BODY_REFUSED,
    INVALID_CURSOR,
    NOT_FOUND,
    REFUSALS,
    UNUSABLE_URL,
    WEBHOOK_REFUSED,
)
from api.schemas import PlainText
from api.webhook_schemas import (
    DeliveryPage,
    DeliveryView,
    WebhookChange,
    WebhookCreated,
    WebhookPage,
    WebhookRequest,
    WebhookView,
    delivery_view,
    webhook_fields,
)
from shared.database import transaction
from shared.models.webhooks import DeliveryState, WebhookEvent
from shared.services.webhooks import (
    add_webhook,
    change_webhook,
    delete_webhook,
    list_deliveries,
    list_webhooks,
    redeliver,
    require_webhook,
    send_test,
)


log = structlog.get_logger(__name__)

router = APIRouter(
    prefix="/api/v1/webhooks",
    tags=["Webhooks"],
    route_class=AuthenticatedRoute,
    responses={**REFUSALS, **RATE_LIMITED},
)


@router.get("", summary="List webhooks, newest first", responses=INVALID_CURSOR)
def list_webhooks_route(
    parts: Parts,
    caller: CurrentCaller,
    workspace: PlainText | None = None,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> WebhookPage:
    """List the webhooks of the key's workspace; an admin sees everybody's."""
    with transaction(parts.engine) as session:
        page = list_webhooks(session, caller, workspace=workspace, cursor=cursor, limit=limit)
        return WebhookPage(
            items=[WebhookView(**webhook_fields(record)) for record in page.items],
            next_cursor=page.next_cursor,
        )


@router.post(
    "",
    status_code=201,
    summary="Have an endpoint told of stops that end",
    responses={**UNUSABLE_URL, **NOT_FOUND, **WEBHOOK_REFUSED, **BODY_REFUSED},
)
def post_webhook(body: WebhookRequest, parts: Parts, caller: CurrentCaller) -> WebhookCreated:
    """Add a webhook to the key's workspace. Only this answer has its secret."""
    parts.webhook_targets.check(body.url)
    with transaction(parts.engine) as session:
        made = add_webhook(
            session,
            caller,
            parts.webhook_sealer,
            url=body.url,
            events=[WebhookEvent(event) for event in body.events],
            workspace=body.workspace,
            limit=parts.settings.webhook_limit,
        )
        answer = WebhookCreated(
            **webhook_fields(made.record), secret=made.secret.get_secret_value()
        )
    log.info("webhook added", webhook_id=str(answer.id), workspace=answer.workspace)
    return answer


@router.get("/{webhook_id}", summary="One webhook", responses=NOT_FOUND)
def get_webhook(webhook_id: UUID, parts: Parts, caller: CurrentCaller) -> WebhookView:
    """Show a webhook; 404 for one that the caller may not see."""
    with transaction(parts.engine) as session:
        return WebhookView(**webhook_fields(require_webhook(session, caller, webhook_id)))


@router.patch(
    "/{webhook_id}",
    summary="Change a webhook: its URL, its events, or whether it is enabled",
    responses={**UNUSABLE_URL, **NOT_FOUND, **BODY_REFUSED},
)
def patch_webhook(
    webhook_id: UUID, body: WebhookChange, parts: Parts, caller: CurrentCaller
) -> WebhookView:
    """Change what is given; its secret stays. 404 for one that the caller may not see."""
    if body.url is not None:
        parts.webhook_targets.check(body.url)
    events = None if body.events is None else [WebhookEvent(event) for event in body.events]
    with transaction(parts.engine) as session:
        record = change_webhook(
            session, caller, webhook_id, url=body.url, events=events, enabled=body.enabled
        )
        answer = WebhookView(**webhook_fields(record))
    log.info("webhook changed", webhook_id=str(webhook_id))
    return answer


@router.delete("/{webhook_id}", status_code=204, summary="Delete a webhook", responses=NOT_FOUND)
def delete_webhook_route(webhook_id: UUID, parts: Parts, caller: CurrentCaller) -> None:
    """Delete a webhook: nothing is sent any more, not even what is pending."""
    with transaction(parts.engine) as session:
        delete_webhook(session, caller, webhook_id)
    log.info("webhook deleted", webhook_id=str(webhook_id))


@router.get(
    "/{webhook_id}/deliveries",
    summary="List a webhook's deliveries, newest first",
    responses={**INVALID_CURSOR, **NOT_FOUND},
)
def list_deliveries_route(
    webhook_id: UUID,
    parts: Parts,
    caller: CurrentCaller,
    *,
    state: DeliveryState | None = None,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> DeliveryPage:
    """List what was sent to a webhook, is to be, or was given up."""
    with transaction(parts.engine) as session:
        page = list_deliveries(session, caller, webhook_id, state=state, cursor=cursor, limit=limit)
        return DeliveryPage(
            items=[delivery_view(delivery) for delivery in page.items],
            next_cursor=page.next_cursor,
        )


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/redeliver",
    summary="Send a delivery once more that was delivered or given up",
    responses={**NOT_FOUND, **WEBHOOK_REFUSED},
)
def redeliver_route(
    webhook_id: UUID, delivery_id: UUID, parts: Parts, caller: CurrentCaller
) -> DeliveryView:
    """Make it pending again, with the same event id and body."""
    with transaction(parts.engine) as session:
        return delivery_view(redeliver(session, caller, webhook_id, delivery_id))


@router.post(
    "/{webhook_id}/test",
    summary="Send a webhook an event of no other meaning",
    responses={**NOT_FOUND, **WEBHOOK_REFUSED},
)
def send_test_route(webhook_id: UUID, parts: Parts, caller: CurrentCaller) -> DeliveryView:
    """Write a delivery of `webhook.test`; the list of deliveries says how it went."""
    with transaction(parts.engine) as session:
        return delivery_view(send_test(session, caller, webhook_id))
