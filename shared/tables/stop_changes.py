"""How each stop went, step by step, and who is told at once: for readers that follow along.

A trigger writes the steps, so that none is left out, whoever takes it: a worker, the dispatcher, a
request, a person with psql.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import DDL, BigInteger, Identity, Index, event, func, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.tables.base import VACUUM_OFTEN, Base
from shared.tables.stops import StopTask


CHANNEL = "stop_changes"
"""Where PostgreSQL tells of changes (`LISTEN stop_changes`). What it says is the batch's id."""


class StopChange(Base):
    """One change of a stop's state. That it was accepted is none: its own row says that.

    Without foreign keys, which would be looked up at each step. Who deletes a batch deletes these.
    """

    __tablename__ = "stop_changes"
    __table_args__ = (Index(None, "batch_id"), VACUUM_OFTEN)

    transaction: Mapped[int] = mapped_column(
        BigInteger,
        primary_key=True,
        autoincrement=False,
        server_default=text("pg_current_xact_id()::text::bigint"),
    )
    """Who has a snapshot (`shared.models.snapshots`) knows by this whether it was seen already.

    Neither a number nor a time can say that: transactions end in another order than they began.
    """
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    """The order within a stop, and within a transaction."""
    batch_id: Mapped[UUID]
    stop_task_id: Mapped[UUID]
    state: Mapped[str]
    """The `StopState` that it came to."""
    attempt: Mapped[int]
    error_code: Mapped[str | None]
    """An `ErrorCode`: of the last failed try while open, of the failure when failed."""
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class BatchWatch(Base):
    """A process that wants to hear of a batch's changes at once.

    Only of such batches PostgreSQL tells: transactions that tell of something are written to disk
    one after the other, not together (decision 0021).
    """

    __tablename__ = "batch_watches"
    __table_args__ = (VACUUM_OFTEN,)

    batch_id: Mapped[UUID] = mapped_column(primary_key=True)
    watcher: Mapped[UUID] = mapped_column(primary_key=True)
    """The process."""
    expires_at: Mapped[datetime] = mapped_column(index=True)
    """Until then it says so again, or it has died."""


RECORD_STOP_CHANGE = """
CREATE FUNCTION record_stop_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO stop_changes (batch_id, stop_task_id, state, attempt, error_code)
    VALUES (NEW.batch_id, NEW.id, NEW.state, NEW.attempt, NEW.error_code);
    IF EXISTS (SELECT FROM batch_watches WHERE batch_id = NEW.batch_id) THEN
        PERFORM pg_notify('stop_changes', NEW.batch_id::text);
    END IF;
    RETURN NULL;
END
$$
"""

ON_STOP_CHANGE = """
CREATE TRIGGER stop_changes AFTER UPDATE OF state ON stop_tasks
FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION record_stop_change()
"""

for _ddl in (RECORD_STOP_CHANGE, ON_STOP_CHANGE):
    event.listen(StopTask.__table__, "after_create", DDL(_ddl))  # type: ignore[no-untyped-call] # SQLAlchemy gives it no types
