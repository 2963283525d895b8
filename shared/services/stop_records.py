"""What callers may look up of batches and stops: within what they may see, page by page."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from shared.exceptions import NotFoundError
from shared.models.pages import Cursor, StopFilter
from shared.models.states import StopState
from shared.storage import stop_records as storage


if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy.orm import Session

    from shared.models.callers import Caller
    from shared.storage.stop_records import BatchRecord, StopRecord
    from shared.tables import StopAttempt, StopBatch, StopTask

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Page(Generic[T]):
    """One page of a list."""

    items: list[T]
    next_cursor: str | None
    """Where the next page begins; None on the last one."""


@dataclass(frozen=True, kw_only=True)
class BatchProgress:
    """A batch, and how many of its stops stand where: every state, zeros included."""

    record: BatchRecord
    counts: dict[StopState, int]


def list_stops(
    session: Session, caller: Caller, wanted: StopFilter, *, cursor: str | None, limit: int
) -> Page[StopRecord]:
    """List the stop tasks that the caller may see, newest first.

    Raises
    ------
    InvalidCursorError
        The cursor is none of ours.
    """
    after = None if cursor is None else Cursor.decode(cursor)
    rows = storage.list_stops(
        session, wanted, sees_only=caller.sees_only, after=after, limit=limit + 1
    )
    return Page(items=rows[:limit], next_cursor=_cursor_behind([r.task for r in rows], limit))


def find_stop(
    session: Session, caller: Caller, stop_task_id: UUID
) -> tuple[StopRecord, Sequence[StopAttempt]]:
    """Find a stop task with all of its attempts.

    Raises
    ------
    NotFoundError
        There is none of that id that the caller may see.
    """
    record = storage.find_stop(session, stop_task_id, sees_only=caller.sees_only)
    if record is None:
        msg = f"no stop task {stop_task_id}"
        raise NotFoundError(msg)
    return record, storage.list_attempts(session, stop_task_id)


def list_batches(
    session: Session, caller: Caller, *, cursor: str | None, limit: int
) -> Page[BatchProgress]:
    """List the batches that the caller may see, newest first.

    Raises
    ------
    InvalidCursorError
        The cursor is none of ours.
    """
    after = None if cursor is None else Cursor.decode(cursor)
    rows = storage.list_batches(session, sees_only=caller.sees_only, after=after, limit=limit + 1)
    counts = storage.count_by_state(session, [row.batch.id for row in rows[:limit]])
    return Page(
        items=[_progress(row, counts[row.batch.id]) for row in rows[:limit]],
        next_cursor=_cursor_behind([row.batch for row in rows], limit),
    )


def find_batch(
    session: Session, caller: Caller, batch_id: UUID
) -> tuple[BatchProgress, list[StopRecord]]:
    """Find a batch with those of its stop tasks that the caller may see, which is all of them.

    Raises
    ------
    NotFoundError
        There is none of that id that the caller may see.
    """
    record = storage.find_batch(session, batch_id, sees_only=caller.sees_only)
    if record is None:
        msg = f"no batch {batch_id}"
        raise NotFoundError(msg)
    tasks = storage.list_stops(
        session,
        StopFilter(batch_id=batch_id),
        sees_only=caller.sees_only,
        after=None,
        limit=record.batch.stopped,
    )
    # Counted from what was read: another statement would count another moment.
    return _progress(record, Counter(stop.task.state for stop in tasks)), tasks


def _cursor_behind(rows: Sequence[StopTask | StopBatch], limit: int) -> str | None:
    """Give the cursor of the next page, if more rows than one page were found."""
    if len(rows) <= limit:
        return None
    return Cursor(accepted_at=rows[limit - 1].accepted_at, row_id=rows[limit - 1].id).encode()


def _progress(record: BatchRecord, counts: dict[str, int]) -> BatchProgress:
    return BatchProgress(record=record, counts={state: counts.get(state, 0) for state in StopState})
