"""Endpoints and their deliveries, as people look at and change them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Select, func, null, select, tuple_, update

from shared.models.webhooks import DeliveryState, WebhookEvent
from shared.storage.clock import now
from shared.tables import User, Webhook, WebhookDelivery, Workspace


if TYPE_CHECKING:
    from datetime import timedelta
    from uuid import UUID

    from sqlalchemy.orm import Session

    from shared.models.pages import Cursor


class WebhookRecord(NamedTuple):
    """An endpoint with the names that people know things by."""

    webhook: Webhook
    workspace: str
    user: str


def _webhooks(sees_only: UUID | None) -> Select[Webhook, str, str]:
    query = (
        select(Webhook, Workspace.name, User.name)
        .join(Workspace, Workspace.id == Webhook.workspace_id)
        .join(User, User.id == Webhook.user_id)
    )
    if sees_only is None:
        return query
    return query.where(Webhook.workspace_id == sees_only, Webhook.by_admin.is_(False))


def list_webhooks(
    session: Session,
    *,
    sees_only: UUID | None,
    workspace: str | None,
    after: Cursor | None,
    limit: int,
) -> list[WebhookRecord]:
    """List endpoints, newest first; at most `limit` of those behind the cursor."""
    query = _webhooks(sees_only)
    if workspace is not None:
        query = query.where(Workspace.name == workspace)
    if after is not None:
        behind = tuple_(Webhook.created_at, Webhook.id) < (after.accepted_at, after.row_id)
        query = query.where(behind)
    query = query.order_by(Webhook.created_at.desc(), Webhook.id.desc()).limit(limit)
    return [WebhookRecord(*row) for row in session.execute(query)]


def find_webhook(
    session: Session, webhook_id: UUID, *, sees_only: UUID | None, lock: bool = False
) -> WebhookRecord | None:
    """Find one endpoint that the caller may see."""
    query = _webhooks(sees_only).where(Webhook.id == webhook_id)
    if lock:
        query = query.with_for_update(of=Webhook)
    row = session.execute(query).one_or_none()
    return None if row is None else WebhookRecord(*row)


def lock_workspace(session: Session, *, only: UUID | None, name: str | None) -> UUID | None:
    """Find a workspace; until the transaction ends nobody else locks it.

    Parameters
    ----------
    session
        In a transaction.
    only
        The one that it must be; None for any.
    name
        Its name; None if `only` says enough.
    """
    query = select(Workspace.id)
    if only is not None:
        query = query.where(Workspace.id == only)
    if name is not None:
        query = query.where(Workspace.name == name)
    # What refers to the workspace may be written meanwhile.
    return session.scalar(query.with_for_update(key_share=True))


def count_webhooks(session: Session, workspace_id: UUID, *, by_admin: bool) -> int:
    """Count a workspace's endpoints, those that admins made or the others."""
    return session.scalars(
        select(func.count()).where(
            Webhook.workspace_id == workspace_id, Webhook.by_admin.is_(by_admin)
        )
    ).one()


def list_deliveries(
    session: Session,
    webhook_id: UUID,
    *,
    state: DeliveryState | None,
    after: Cursor | None,
    limit: int,
) -> list[WebhookDelivery]:
    """List an endpoint's deliveries, newest first; at most `limit` of those behind the cursor."""
    query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id)
    if state is not None:
        query = query.where(WebhookDelivery.state == state)
    if after is not None:
        behind = tuple_(WebhookDelivery.created_at, WebhookDelivery.id) < (
            after.accepted_at,
            after.row_id,
        )
        query = query.where(behind)
    query = query.order_by(WebhookDelivery.created_at.desc(), WebhookDelivery.id.desc())
    return list(session.scalars(query.limit(limit)))


def find_delivery(session: Session, webhook_id: UUID, delivery_id: UUID) -> WebhookDelivery | None:
    """Find one delivery of an endpoint."""
    return session.scalar(
        select(WebhookDelivery).where(
            WebhookDelivery.webhook_id == webhook_id, WebhookDelivery.id == delivery_id
        )
    )


def count_tests(session: Session, webhook_id: UUID, *, within: timedelta) -> int:
    """Count the tests of an endpoint that were asked for lately, whatever became of them."""
    return session.scalars(
        select(func.count()).where(
            WebhookDelivery.webhook_id == webhook_id,
            WebhookDelivery.created_at > func.now() - within,
            WebhookDelivery.event == WebhookEvent.TEST,
        )
    ).one()


def find_test(session: Session, webhook_id: UUID, subject_id: UUID) -> WebhookDelivery:
    """Find what was written of a test, by what only it is about."""
    return session.scalars(
        select(WebhookDelivery).where(
            WebhookDelivery.webhook_id == webhook_id,
            WebhookDelivery.event == WebhookEvent.TEST,
            WebhookDelivery.subject_id == subject_id,
        )
    ).one()


def make_due_again(session: Session, delivery_id: UUID) -> WebhookDelivery | None:
    """Have a delivery that has ended sent once more; None if it has not."""
    return session.scalar(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id, WebhookDelivery.state != DeliveryState.PENDING)
        .values(
            state=DeliveryState.PENDING,
            failures=0,
            pending_since=now,
            next_at=now,
            finished_at=null(),
        )
        .returning(WebhookDelivery)
        .execution_options(populate_existing=True)
    )
