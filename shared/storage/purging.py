"""Deleting batches that are old enough. Any number of purges may run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Interval, any_, bindparam, delete, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from shared.database import unbounded
from shared.tables import CvmDrift, StopAttempt, StopBatch, StopChange, StopTask, WebhookDelivery


if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta
    from uuid import UUID

    from sqlalchemy import BindParameter, ColumnElement, Connection, Delete
    from sqlalchemy.orm import Session


@dataclass(frozen=True, kw_only=True)
class Purged:
    """What was deleted, or would be."""

    batches: int = 0
    stops: int = 0

    def __add__(self, other: Purged) -> Purged:
        """Add the counts of two."""
        return Purged(batches=self.batches + other.batches, stops=self.stops + other.stops)

    def __str__(self) -> str:
        """Say it to a person."""
        return f"batches: {self.batches}, stops: {self.stops}"


def _is_old_and_done(older_than: ColumnElement[timedelta]) -> ColumnElement[bool]:
    """Say that a batch may go: it is old enough, and each of its stops has ended.

    Not by `clock.now`, which is another at each row: no index can be searched by it, and every
    round would look at every batch there is. And by a count of all its stops with a filter:
    `NOT EXISTS`, or a condition that an index is for, lets PostgreSQL begin with the open stops,
    all of them.
    """
    still_open = (
        select(func.count().filter(StopTask.finished_at.is_(None)))
        .where(StopTask.batch_id == StopBatch.id)
        .scalar_subquery()
    )
    return (StopBatch.accepted_at <= func.now() - older_than) & (still_open == 0)


_IDS = ARRAY(PG_UUID(as_uuid=True))


def _ids(name: str) -> BindParameter[Sequence[UUID]]:
    return bindparam(name, type_=_IDS)


_TAKE_OLD = (
    select(StopBatch.id)
    .where(_is_old_and_done(bindparam("older_than", type_=Interval)))
    # Backwards through `ix_stop_batches_page`, which ends at what is too new.
    .order_by(StopBatch.accepted_at, StopBatch.id)
    .limit(bindparam("most"))
    # A batch whose stops have all ended gets no other ones: what the lock finds is still so.
    .with_for_update(skip_locked=True)
)

# Locked before their drifts are deleted: a sync that has noticed one of them just now is waited
# for, and none notices one afterwards.
_STOPS = (
    select(StopTask.batch_id, StopTask.id, StopTask.attempt)
    .where(StopTask.batch_id == any_(_ids("batches")))
    .with_for_update()
)

# By ids, never by joins: these are found by their indexes whatever PostgreSQL takes the tables'
# statistics for.
_DELETIONS: tuple[Delete, ...] = (
    delete(StopAttempt).where(StopAttempt.stop_task_id == any_(_ids("stops"))),
    delete(CvmDrift).where(CvmDrift.stop_task_id == any_(_ids("stops"))),
    delete(StopChange).where(StopChange.batch_id == any_(_ids("batches"))),
    delete(WebhookDelivery).where(WebhookDelivery.batch_id == any_(_ids("batches"))),
    delete(StopTask).where(StopTask.id == any_(_ids("stops"))),
    delete(StopBatch).where(StopBatch.id == any_(_ids("batches"))),
)


def delete_oldest(
    connection: Connection, *, older_than: timedelta, limit: int, attempts: int
) -> Purged:
    """Delete the oldest batches that may go, with their stops, and all that is known of those.

    Parameters
    ----------
    connection
        Open transaction.
    older_than
        Least time since a batch was accepted.
    limit
        Batches at most. Those that another purge is just deleting are passed over.
    attempts
        Attempts at most, unless the oldest batch alone has more.

    Returns
    -------
    Purged
        No batches when there is nothing (more) to delete.
    """
    found = connection.execute(_TAKE_OLD, {"older_than": older_than, "most": limit}).scalars()
    stops_of: dict[UUID, list[UUID]] = {batch: [] for batch in found}
    if not stops_of:
        return Purged()
    attempts_of: Counter[UUID] = Counter()
    for batch, stop, count in connection.execute(_STOPS, {"batches": list(stops_of)}):
        stops_of[batch].append(stop)
        attempts_of[batch] += count
    batches: list[UUID] = []
    stops: list[UUID] = []
    for batch, its_stops in stops_of.items():
        attempts -= attempts_of[batch]
        if batches and attempts < 0:
            break
        batches.append(batch)
        stops += its_stops
    for deletion in _DELETIONS:
        connection.execute(deletion, {"batches": batches, "stops": stops})
    return Purged(batches=len(batches), stops=len(stops))


def count_old(session: Session, *, older_than: timedelta) -> Purged:
    """Count what may go, as long as it takes; nothing is locked."""
    connection = session.connection()
    with unbounded(connection):
        row = connection.execute(
            select(func.count(), func.coalesce(func.sum(StopBatch.stopped), 0)).where(
                _is_old_and_done(literal(older_than, Interval))
            )
        ).one()
    return Purged(batches=row[0], stops=row[1])
