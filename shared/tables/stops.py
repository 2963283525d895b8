"""What was asked and what became of it: batches, stop tasks, attempts, drifts."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, desc, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.states import OPEN_STATES, WAITING_STATES, AttemptOutcome, StopState
from shared.tables.base import VACUUM_OFTEN, Base, CreatedAt, RowNumber, TimeOrderedId


def _any_of(column: str, values: tuple[str, ...] | type[StopState | AttemptOutcome]) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


class StopBatch(Base):
    """One accepted request, and the answer that it got."""

    __tablename__ = "stop_batches"
    __table_args__ = (
        CheckConstraint("total = stopped + skipped + jsonb_array_length(errors)", name="adds_up"),
        Index(
            "uq_stop_batches_idempotency",
            "user_id",
            "workspace_id",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
        Index("ix_stop_batches_page", desc("accepted_at"), desc("id")),
        # Without those of admins, which members do not see, however many there are.
        Index(
            "ix_stop_batches_workspace_page",
            "workspace_id",
            desc("accepted_at"),
            desc("id"),
            postgresql_where=text("by_admin IS false"),
        ),
        # From a log line to its stops, by their batches: an entry for a batch, not for each stop.
        Index("ix_stop_batches_request_page", "request_id", desc("accepted_at"), desc("id")),
        VACUUM_OFTEN,
    )

    id: Mapped[TimeOrderedId]
    workspace_id: Mapped[UUID] = mapped_column(ForeignKey("workspaces.id"))
    """The workspace of the key that asked."""
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    api_key_id: Mapped[UUID] = mapped_column(ForeignKey("api_keys.id"))
    by_admin: Mapped[bool]
    """An admin asked: CVMs of any workspace may be in it, so that only admins may see it."""
    request_id: Mapped[str]
    traceparent: Mapped[str | None]
    """The request's span (W3C Trace Context), which its stops belong to; null without traces."""
    total: Mapped[int]
    stopped: Mapped[int]
    skipped: Mapped[int]
    errors: Mapped[list[dict[str, str]]] = mapped_column(JSONB)
    """The answer's `errors`: `[{"cvm_id": …, "error": …}]`."""
    idempotency_key: Mapped[str | None]
    request_digest: Mapped[bytes | None]
    """SHA-256 of the ids asked for; set with `idempotency_key`."""
    retry_of: Mapped[UUID | None]
    """The batch whose stops are tried again. Not a foreign key: that one is purged first."""
    accepted_at: Mapped[CreatedAt]


class StopTask(Base):
    """One CVM's stop. Its id is the id of its Celery task."""

    __tablename__ = "stop_tasks"
    __table_args__ = (
        CheckConstraint(_any_of("state", StopState), name="state"),
        CheckConstraint(
            "(state = 'stopping') = (lease_expires_at IS NOT NULL)", name="lease_while_stopping"
        ),
        CheckConstraint(
            f"({_any_of('state', OPEN_STATES)}) = (finished_at IS NULL)",
            name="finished_when_closed",
        ),
        # By `finished_at` and not by state: while statistics say that no stop is open, and they do
        # for long after a quiet night, all indexes that a host's waiting stops are in seem to cost
        # the same, and a wrong one was read from end to end for each host.
        Index(
            "uq_stop_tasks_open_cvm",
            "cvm_id",
            unique=True,
            postgresql_where=text("finished_at IS NULL"),
        ),
        Index(
            "ix_stop_tasks_deadline", "deadline_at", postgresql_where=text("finished_at IS NULL")
        ),
        Index(
            "ix_stop_tasks_waiting",
            "vm_host_id",
            "due_at",
            postgresql_where=text(_any_of("state", WAITING_STATES)),
        ),
        Index("ix_stop_tasks_stopping", "vm_host_id", postgresql_where=text("state = 'stopping'")),
        Index("ix_stop_tasks_batch", "batch_id"),
        Index("ix_stop_tasks_cvm", "cvm_id", desc("accepted_at"), desc("id")),
        Index("ix_stop_tasks_page", desc("accepted_at"), desc("id")),
        Index("ix_stop_tasks_workspace_page", "workspace_id", desc("accepted_at"), desc("id")),
        Index("ix_stop_tasks_host_page", "vm_host_id", desc("accepted_at"), desc("id")),
        # Ends that are rare: without indexes of their own, everything is read to find a few.
        Index(
            "ix_stop_tasks_state_page",
            "state",
            desc("accepted_at"),
            desc("id"),
            postgresql_where=text("state IN ('failed', 'canceled')"),
        ),
        Index(
            "ix_stop_tasks_failed_workspace_page",
            "workspace_id",
            desc("accepted_at"),
            desc("id"),
            postgresql_where=text("state = 'failed'"),
        ),
        Index(
            "ix_stop_tasks_failed_host_page",
            "vm_host_id",
            desc("accepted_at"),
            desc("id"),
            postgresql_where=text("state = 'failed'"),
        ),
        Index(
            "ix_stop_tasks_error_page",
            "error_code",
            desc("accepted_at"),
            desc("id"),
            postgresql_where=text("error_code IS NOT NULL"),
        ),
        # In the order in which the newest retry is asked for, so that no index of pages is read.
        Index(
            "ix_stop_tasks_retry_of",
            "retry_of",
            desc("accepted_at"),
            desc("id"),
            postgresql_where=text("retry_of IS NOT NULL"),
        ),
        VACUUM_OFTEN,
    )

    id: Mapped[TimeOrderedId]
    batch_id: Mapped[UUID] = mapped_column(ForeignKey("stop_batches.id"))
    cvm_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("cvms.id"))
    workspace_id: Mapped[UUID] = mapped_column(ForeignKey("workspaces.id"))
    """The CVM's workspace when the stop was accepted; who may see this row follows from it."""
    vm_host_id: Mapped[UUID] = mapped_column(ForeignKey("vm_hosts.id"))
    """The CVM's host when the stop was accepted."""
    retry_of: Mapped[UUID | None]
    """The stop that this one tries again. Not a foreign key: that one is purged first."""
    vm_uuid: Mapped[str]
    """The VM that was meant: what the row of the CVM says later changes nothing."""
    request_id: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=text("'scheduled'"))
    """A `StopState`."""
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    """How often it was claimed; fences every later change (I4)."""
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    """Transient failures so far."""
    confirmations: Mapped[int] = mapped_column(server_default=text("0"))
    """Turns in a row without success; an accepted force stop sets it to 0. Sets the next wait."""
    accepted_at: Mapped[CreatedAt]
    due_at: Mapped[CreatedAt]
    """When to wake a worker next."""
    sent_at: Mapped[datetime | None]
    """When a message was last sent for it."""
    deadline_at: Mapped[datetime]
    lease_expires_at: Mapped[datetime | None]
    worker: Mapped[str | None]
    """The Celery node that claimed it last."""
    force_stopped_at: Mapped[datetime | None]
    """When the host last took a force stop."""
    finished_at: Mapped[datetime | None]
    error_code: Mapped[str | None]
    """An `ErrorCode`: of the last failed try while open, of the failure when failed."""
    error_message: Mapped[str | None]


class StopAttempt(Base):
    """One worker's turn with one stop. Rows are added and closed, never rewritten."""

    __tablename__ = "stop_attempts"
    __table_args__ = (
        CheckConstraint(_any_of("outcome", AttemptOutcome), name="outcome"),
        VACUUM_OFTEN,
    )

    stop_task_id: Mapped[UUID] = mapped_column(ForeignKey("stop_tasks.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    """1, 2, …: the task's `attempt` while this one ran."""
    worker: Mapped[str]
    started_at: Mapped[CreatedAt]
    finished_at: Mapped[datetime | None]
    outcome: Mapped[str] = mapped_column(server_default=text("'running'"))
    """An `AttemptOutcome`."""
    power_state: Mapped[str | None]
    """A `PowerState`: what the host last reported in this turn."""
    error_code: Mapped[str | None]
    """An `ErrorCode`."""
    error_message: Mapped[str | None]
    exchanges: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=text("'[]'"))
    """What was sent to the host and what it answered, in order: `Exchange.as_json` each."""


class CvmDrift(Base):
    """A CVM that was seen running again after its newest stop had succeeded."""

    __tablename__ = "cvm_drifts"
    __table_args__ = (
        Index(
            "uq_cvm_drifts_open", "cvm_id", unique=True, postgresql_where=text("ended_at IS NULL")
        ),
        # For deletions of CVMs, stops and hosts, which look for what refers to them.
        Index(None, "cvm_id"),
        Index(None, "stop_task_id"),
        Index(None, "vm_host_id"),
    )

    id: Mapped[RowNumber]
    cvm_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("cvms.id"))
    stop_task_id: Mapped[UUID] = mapped_column(ForeignKey("stop_tasks.id"))
    """The stop that had succeeded. Who deletes it deletes this too."""
    vm_host_id: Mapped[UUID] = mapped_column(ForeignKey("vm_hosts.id"))
    """Where the CVM was seen running."""
    noticed_at: Mapped[CreatedAt]
    """When that host was asked for the list."""
    ended_at: Mapped[datetime | None]
    """When the CVM was seen down again, or gone."""
