"""Whose batches and stops a caller may act on: batches that it sees in lists, and their stops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.exceptions import AdminOnlyError, NotFoundError
from shared.storage import stop_records as storage


if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy.orm import Session

    from shared.models.callers import Caller
    from shared.storage.stop_records import BatchRecord, StopRecord


def require_batch(session: Session, caller: Caller, batch_id: UUID) -> BatchRecord:
    """Find a batch to act on.

    Raises
    ------
    NotFoundError
        There is none of that id that the caller may see.
    """
    record = storage.find_batch(session, batch_id, sees_only=caller.sees_only)
    if record is None:
        msg = f"no batch {batch_id}"
        raise NotFoundError(msg)
    return record


def require_stop(session: Session, caller: Caller, stop_task_id: UUID) -> StopRecord:
    """Find a stop task to act on.

    Raises
    ------
    NotFoundError
        There is none of that id that the caller may see.
    AdminOnlyError
        An admin asked for it: members see it, since it is on their CVM, and may not act on it.
    """
    record = storage.find_stop(session, stop_task_id, sees_only=caller.sees_only)
    if record is None:
        msg = f"no stop task {stop_task_id}"
        raise NotFoundError(msg)
    if caller.sees_only is not None and storage.is_by_admin(session, record.task.batch_id):
        msg = "an admin asked for this stop, and only an admin may retry or cancel it"
        raise AdminOnlyError(msg)
    return record
