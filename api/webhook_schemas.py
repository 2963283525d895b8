"""What goes over the wire about webhooks."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import PlainText
from shared.models.webhook_urls import MAX_URL
from shared.models.webhooks import EVENTS, DeliveryState, WebhookEvent


if TYPE_CHECKING:
    from shared.storage.webhooks import WebhookRecord
    from shared.tables import WebhookDelivery

Url = Annotated[
    PlainText,
    Field(
        min_length=1,
        max_length=MAX_URL,
        description="Where events are posted to; a public address, and `https`",
    ),
]

Subscribable = Literal["cvm.stop.succeeded", "cvm.stop.failed", "batch.finished"]
Events = Annotated[
    list[Subscribable],
    Field(min_length=1, max_length=len(EVENTS), description="What it is told of"),
]


class WebhookRequest(BaseModel):
    """An endpoint that is to be told of events."""

    model_config = ConfigDict(extra="forbid")

    url: Url
    events: Events = Field(default_factory=lambda: [event.value for event in EVENTS])  # type: ignore[arg-type] # they are those
    workspace: PlainText | None = Field(
        default=None, description="Whose events; the key's own unless an admin names another"
    )


class WebhookChange(BaseModel):
    """What is to change of an endpoint; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    url: Url | None = None
    events: Events | None = None
    enabled: bool | None = Field(
        default=None,
        strict=True,
        description="While it is not, it is told of nothing, and nothing is sent to it",
    )


class WebhookView(BaseModel):
    """An endpoint that is told of events."""

    id: UUID
    workspace: str
    user: str = Field(description="Who made it")
    by_admin: bool = Field(
        description="An admin made it: it is told of admins' batches too, and only admins see it"
    )
    url: str
    events: list[WebhookEvent]
    enabled: bool
    created_at: datetime
    disabled_at: datetime | None
    failing_since: datetime | None = Field(description="Set while its last try has failed")


class WebhookCreated(WebhookView):
    """An endpoint, with its secret."""

    secret: str = Field(description="Deliveries are signed with it. It is never shown again.")


class WebhookPage(BaseModel):
    """A page of endpoints, newest first."""

    items: list[WebhookView]
    next_cursor: str | None


class DeliveryView(BaseModel):
    """One event on its way to an endpoint."""

    id: UUID
    event_id: str = Field(description="`id` in the body: the same at every try and endpoint")
    event: WebhookEvent
    batch_id: UUID | None
    state: DeliveryState
    attempts: int = Field(description="How often it was tried")
    created_at: datetime
    next_at: datetime | None = Field(description="When it is tried next, while it is pending")
    last_attempt_at: datetime | None
    last_status: int | None = Field(description="The HTTP status of the last answer")
    last_error: str | None = Field(description="Why the last try failed")
    finished_at: datetime | None
    body: str = Field(description="What is sent, byte for byte")


class DeliveryPage(BaseModel):
    """A page of deliveries, newest first."""

    items: list[DeliveryView]
    next_cursor: str | None


def webhook_fields(record: WebhookRecord) -> dict[str, Any]:
    """Give the fields of a `WebhookView`."""
    webhook = record.webhook
    return {
        "id": webhook.id,
        "workspace": record.workspace,
        "user": record.user,
        "by_admin": webhook.by_admin,
        "url": webhook.url,
        "events": webhook.events,
        "enabled": webhook.disabled_at is None,
        "created_at": webhook.created_at,
        "disabled_at": webhook.disabled_at,
        "failing_since": webhook.failing_since,
    }


def delivery_view(delivery: WebhookDelivery) -> DeliveryView:
    """Show a delivery."""
    state = DeliveryState(delivery.state)
    return DeliveryView(
        id=delivery.id,
        event_id=delivery.event_id,
        event=WebhookEvent(delivery.event),
        batch_id=delivery.batch_id,
        state=state,
        attempts=delivery.attempts,
        created_at=delivery.created_at,
        next_at=delivery.next_at if state is DeliveryState.PENDING else None,
        last_attempt_at=delivery.last_attempt_at,
        last_status=delivery.last_status,
        last_error=delivery.last_error,
        finished_at=delivery.finished_at,
        body=delivery.body,
    )
