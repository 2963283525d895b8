"""Who is told of what, every event on its way there, and up to where changes were looked at."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, desc, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.webhooks import DeliveryState
from shared.tables.base import VACUUM_OFTEN, Base, CreatedAt, RandomId, TimeOrderedId


class Webhook(Base):
    """One endpoint of a workspace."""

    __tablename__ = "webhooks"
    __table_args__ = (
        Index("ix_webhooks_page", desc("created_at"), desc("id")),
        Index("ix_webhooks_workspace", "workspace_id"),
    )

    id: Mapped[RandomId]
    workspace_id: Mapped[UUID] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    """Who made it."""
    by_admin: Mapped[bool]
    """An admin made it: it may be told of admins' batches, so that only admins may see it."""
    url: Mapped[str]
    events: Mapped[list[str]] = mapped_column(ARRAY(TEXT))
    """The `WebhookEvent`s that it is told of."""
    sealed_secret: Mapped[bytes]
    """What its deliveries are signed with, sealed with `CVMSTOP_WEBHOOK_KEYS`."""
    created_at: Mapped[CreatedAt]
    """What happened before is not told."""
    disabled_at: Mapped[datetime | None]
    """Since when nothing is told or sent."""
    failing_since: Mapped[datetime | None]
    """Since when no try succeeded: then one delivery at a time is tried."""


class WebhookDelivery(Base):
    """One event for one endpoint. Its body never changes.

    Without foreign keys: deleting an endpoint deletes one row, and no delivery of it is sent any
    more. They go with their batch, or when they are old.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint(
            "state IN (" + ", ".join(f"'{state}'" for state in DeliveryState) + ")", name="state"
        ),
        # However often a change is looked at, each event goes to each endpoint once.
        UniqueConstraint("webhook_id", "event", "subject_id", name="uq_webhook_deliveries_event"),
        Index("ix_webhook_deliveries_page", "webhook_id", desc("created_at"), desc("id")),
        Index(
            "ix_webhook_deliveries_due",
            "webhook_id",
            "next_at",
            postgresql_where=text("state = 'pending'"),
        ),
        Index(
            "ix_webhook_deliveries_pending",
            "pending_since",
            postgresql_where=text("state = 'pending'"),
        ),
        Index(
            "ix_webhook_deliveries_under_way",
            "webhook_id",
            postgresql_where=text("lease_expires_at IS NOT NULL"),
        ),
        Index(
            "ix_webhook_deliveries_batch_id",
            "batch_id",
            postgresql_where=text("batch_id IS NOT NULL"),
        ),
        Index("ix_webhook_deliveries_created_at", "created_at"),
        VACUUM_OFTEN,
    )

    id: Mapped[TimeOrderedId]
    webhook_id: Mapped[UUID]
    event_id: Mapped[str]
    """`evt_…`, the same for every endpoint that is told."""
    event: Mapped[str]
    """A `WebhookEvent`."""
    subject_id: Mapped[UUID]
    """The stop task or batch that it happened to."""
    batch_id: Mapped[UUID | None]
    """The batch that it is purged with."""
    body: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=text("'pending'"))
    """A `DeliveryState`."""
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    """How often it was claimed; fences every later change."""
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    """Failed tries since it was made, or asked for again; sets the next wait."""
    created_at: Mapped[CreatedAt]
    pending_since: Mapped[CreatedAt]
    """When it was made, or asked for again."""
    next_at: Mapped[CreatedAt]
    """When to try it next. While it is claimed: when its lease runs out."""
    lease_expires_at: Mapped[datetime | None]
    """Set while somebody sends it."""
    last_attempt_at: Mapped[datetime | None]
    last_status: Mapped[int | None]
    """The HTTP status of the last answer; None if there was none."""
    last_error: Mapped[str | None]
    """Why the last try failed."""
    finished_at: Mapped[datetime | None]


class WebhookProgress(Base):
    """One row: which changes of stops have been looked at."""

    __tablename__ = "webhook_progress"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"), VACUUM_OFTEN)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    seen: Mapped[str]
    """A `Snapshot`."""
    moved_at: Mapped[CreatedAt]
