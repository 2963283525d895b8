"""What callers may do with webhooks: members with their workspace's, admins with all.

An endpoint that an admin made is told of admins' batches, so that members do not see it (decision
0007 says the same of the batches).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from shared.exceptions import NotFoundError, WebhookRefusedError
from shared.models.pages import Cursor
from shared.models.states import UserRole
from shared.models.webhooks import Event, WebhookEvent, new_secret
from shared.services.stop_records import Page
from shared.storage import webhooks as storage
from shared.storage.clock import now
from shared.storage.webhook_events import add_deliveries
from shared.tables import Webhook, WebhookDelivery


if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from pydantic import SecretStr
    from sqlalchemy.orm import Session

    from shared.models.callers import Caller
    from shared.models.webhooks import DeliveryState
    from shared.sealing import Sealer
    from shared.storage.webhooks import WebhookRecord

TESTS_A_MINUTE = 10
"""Tests of one endpoint that may be asked for: each is a row that is kept for a month, and is sent
before what comes later."""

TEST_PERIOD = timedelta(minutes=1)

OFF = "webhooks are off here: CVMSTOP_WEBHOOK_KEYS is not set"


@dataclass(frozen=True, kw_only=True)
class MadeWebhook:
    """An endpoint that was just made, and its secret, which is shown this once."""

    record: WebhookRecord
    secret: SecretStr


def add_webhook(
    session: Session,
    caller: Caller,
    sealer: Sealer | None,
    *,
    url: str,
    events: Sequence[WebhookEvent],
    workspace: str | None,
    limit: int,
) -> MadeWebhook:
    """Add an endpoint to a workspace: the key's own, unless an admin names another.

    Raises
    ------
    NotFoundError
        There is no such workspace that the caller may see.
    WebhookRefusedError
        Webhooks are off, or the workspace has as many as it may.
    """
    if sealer is None:
        raise WebhookRefusedError(OFF)
    only = caller.workspace_id if workspace is None else caller.sees_only
    workspace_id = storage.lock_workspace(session, only=only, name=workspace)
    if workspace_id is None:
        msg = f"no workspace {workspace}"
        raise NotFoundError(msg)
    by_admin = caller.role is UserRole.ADMIN
    if storage.count_webhooks(session, workspace_id, by_admin=by_admin) >= limit:
        msg = f"the workspace has {limit} webhooks, and may have no more: delete one first"
        raise WebhookRefusedError(msg)
    secret = new_secret()
    webhook = Webhook(
        workspace_id=workspace_id,
        user_id=caller.user_id,
        by_admin=by_admin,
        url=url,
        events=list(dict.fromkeys(events)),
        sealed_secret=sealer.seal(secret.get_secret_value().encode()),
    )
    session.add(webhook)
    session.flush()
    return MadeWebhook(record=require_webhook(session, caller, webhook.id), secret=secret)


def require_webhook(
    session: Session, caller: Caller, webhook_id: UUID, *, lock: bool = False
) -> WebhookRecord:
    """Find an endpoint.

    Raises
    ------
    NotFoundError
        There is none of that id that the caller may see.
    """
    record = storage.find_webhook(session, webhook_id, sees_only=caller.sees_only, lock=lock)
    if record is None:
        msg = f"no webhook {webhook_id}"
        raise NotFoundError(msg)
    return record


def list_webhooks(
    session: Session, caller: Caller, *, workspace: str | None, cursor: str | None, limit: int
) -> Page[WebhookRecord]:
    """List the endpoints that the caller may see, newest first.

    Raises
    ------
    InvalidCursorError
        The cursor is none of ours.
    """
    rows = storage.list_webhooks(
        session,
        sees_only=caller.sees_only,
        workspace=workspace,
        after=None if cursor is None else Cursor.decode(cursor),
        limit=limit + 1,
    )
    return Page(
        items=rows[:limit], next_cursor=_cursor_behind([row.webhook for row in rows], limit)
    )


def change_webhook(
    session: Session,
    caller: Caller,
    webhook_id: UUID,
    *,
    url: str | None,
    events: Sequence[WebhookEvent] | None,
    enabled: bool | None,
) -> WebhookRecord:
    """Change what is given of an endpoint; raises what `require_webhook` raises.

    What happens while it is disabled it is never told; what was on its way waits, for a day.
    """
    record = require_webhook(session, caller, webhook_id, lock=True)
    webhook = record.webhook
    if url is not None:
        webhook.url = url
        webhook.failing_since = None
    if events is not None:
        webhook.events = list(dict.fromkeys(events))
    if enabled is not None and enabled != (webhook.disabled_at is None):
        webhook.disabled_at = None if enabled else session.scalar(now.select())
        webhook.failing_since = None
    session.flush()
    return record


def delete_webhook(session: Session, caller: Caller, webhook_id: UUID) -> None:
    """Delete an endpoint: nothing is sent to it any more. Raises what `require_webhook` raises."""
    session.delete(require_webhook(session, caller, webhook_id, lock=True).webhook)


def list_deliveries(
    session: Session,
    caller: Caller,
    webhook_id: UUID,
    *,
    state: DeliveryState | None,
    cursor: str | None,
    limit: int,
) -> Page[WebhookDelivery]:
    """List an endpoint's deliveries, newest first.

    Raises
    ------
    InvalidCursorError
        The cursor is none of ours. And what `require_webhook` raises.
    """
    after = None if cursor is None else Cursor.decode(cursor)
    require_webhook(session, caller, webhook_id)
    rows = storage.list_deliveries(session, webhook_id, state=state, after=after, limit=limit + 1)
    return Page(items=rows[:limit], next_cursor=_cursor_behind(rows, limit))


def redeliver(
    session: Session, caller: Caller, webhook_id: UUID, delivery_id: UUID
) -> WebhookDelivery:
    """Have a delivery that has ended sent once more, as it was: the same id and body.

    Raises
    ------
    NotFoundError
        There is no such endpoint that the caller may see, or no such delivery of it.
    WebhookRefusedError
        It is pending, or the endpoint is disabled.
    """
    _require_enabled(require_webhook(session, caller, webhook_id))
    if storage.find_delivery(session, webhook_id, delivery_id) is None:
        msg = f"no delivery {delivery_id} of webhook {webhook_id}"
        raise NotFoundError(msg)
    again = storage.make_due_again(session, delivery_id)
    if again is None:
        msg = "the delivery is pending: it is sent by itself"
        raise WebhookRefusedError(msg)
    return again


def send_test(session: Session, caller: Caller, webhook_id: UUID) -> WebhookDelivery:
    """Have an endpoint told of nothing but that it was asked for.

    Raises
    ------
    NotFoundError
        There is no such endpoint that the caller may see.
    WebhookRefusedError
        It is disabled, or was tested as often as it may be.
    """
    # Locked, or two at once would count the same ones.
    record = require_webhook(session, caller, webhook_id, lock=True)
    _require_enabled(record)
    if storage.count_tests(session, webhook_id, within=TEST_PERIOD) >= TESTS_A_MINUTE:
        msg = f"the webhook was tested {TESTS_A_MINUTE} times within a minute: wait a moment"
        raise WebhookRefusedError(msg)
    event = Event(
        kind=WebhookEvent.TEST,
        subject_id=uuid4(),
        batch_id=None,
        workspace_id=record.webhook.workspace_id,
        for_admins=False,
        happened_at=session.scalars(now.select()).one(),
        workspace=record.workspace,
        data={"webhook_id": str(webhook_id)},
    )
    add_deliveries(session, [(webhook_id, event)])
    return storage.find_test(session, webhook_id, event.subject_id)


def _require_enabled(record: WebhookRecord) -> None:
    if record.webhook.disabled_at is not None:
        msg = "the webhook is disabled: nothing is sent to it"
        raise WebhookRefusedError(msg)


def _cursor_behind(rows: Sequence[Webhook | WebhookDelivery], limit: int) -> str | None:
    """Give the cursor of the next page, if more rows than one page were found."""
    if len(rows) <= limit:
        return None
    return Cursor(accepted_at=rows[limit - 1].created_at, row_id=rows[limit - 1].id).encode()
