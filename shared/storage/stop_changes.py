"""Reading what happened to a batch's stops, and saying of which batches to tell at once."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from sqlalchemy import Interval, any_, bindparam, delete, func, literal, select, tuple_
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from shared.models.batch_history import Change, Standing, StopRead
from shared.models.states import StopState
from shared.storage.clock import now
from shared.storage.compiled import CompiledStatement
from shared.tables import BatchWatch, Cvm, StopChange, StopTask, VmHost


if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta
    from uuid import UUID

    from psycopg import Connection
    from sqlalchemy import BindParameter
    from sqlalchemy.orm import Session

# One statement, so that rows and changes are of one moment.
_HISTORY = CompiledStatement(
    select(
        StopTask.id,
        Cvm.hash_id,
        VmHost.name,
        StopTask.accepted_at,
        StopTask.state,
        StopTask.attempt,
        StopTask.error_code,
        func.coalesce(StopTask.finished_at, now),
        StopChange.id,
        StopChange.state,
        StopChange.attempt,
        StopChange.error_code,
        StopChange.at,
    )
    .join(Cvm, Cvm.id == StopTask.cvm_id)
    .join(VmHost, VmHost.id == StopTask.vm_host_id)
    .outerjoin(
        StopChange,
        (StopChange.stop_task_id == StopTask.id) & (StopChange.batch_id == bindparam("batch")),
    )
    .where(StopTask.batch_id == bindparam("batch"))
    .order_by(StopTask.id, StopChange.id)
)


def read_history(connection: Connection[Any], batch_id: UUID) -> list[StopRead]:
    """Read the stops of a batch, by id, each with all of its changes."""
    rows = _HISTORY.run(connection, {"batch": batch_id}).fetchall()
    found = []
    for _, of_one in groupby(rows, key=itemgetter(0)):
        lines = list(of_one)
        task_id, cvm_id, host, accepted_at, state, attempt, error_code, at = lines[0][:8]
        found.append(
            StopRead(
                stop_task_id=task_id,
                cvm_id=cvm_id,
                host=host,
                accepted_at=accepted_at,
                now=Standing(StopState(state), attempt, error_code, at),
                changes=[_change(*line[8:]) for line in lines if line[8] is not None],
            )
        )
    return found


def _change(number: int, state: str, attempt: int, error_code: str | None, at: Any) -> Change:
    return Change(number, Standing(StopState(state), attempt, error_code, at))


def count_changes(session: Session, batch_ids: Sequence[UUID]) -> dict[UUID, int]:
    """Count the written changes of some batches; those without any are left out."""
    rows = session.execute(
        select(StopChange.batch_id, func.count())
        .where(StopChange.batch_id == any_(_array(batch_ids)))
        .group_by(StopChange.batch_id)
    )
    return {batch_id: count for batch_id, count in rows}  # noqa: C416 - a row is not a tuple for mypy


def watch(
    session: Session, watcher: UUID, batch_ids: Sequence[UUID], *, lifetime: timedelta
) -> None:
    """Have PostgreSQL tell of some batches' changes, or go on to."""
    each = func.unnest(_array(batch_ids))
    statement = insert(BatchWatch).from_select(
        ["batch_id", "watcher", "expires_at"],
        select(each, literal(watcher), func.now() + literal(lifetime, Interval)),
    )
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[BatchWatch.batch_id, BatchWatch.watcher],
            set_={"expires_at": statement.excluded.expires_at},
        )
    )


def unwatch(session: Session, watcher: UUID, batch_ids: Sequence[UUID]) -> None:
    """Have it tell this watcher no longer of some batches."""
    session.execute(
        delete(BatchWatch).where(
            BatchWatch.watcher == watcher, BatchWatch.batch_id == any_(_array(batch_ids))
        )
    )


def delete_expired_watches(session: Session) -> None:
    """Delete the watches of processes that have died; those that somebody holds another time."""
    expired = (
        select(BatchWatch.batch_id, BatchWatch.watcher)
        .where(BatchWatch.expires_at < func.now())
        .with_for_update(skip_locked=True)
    )
    session.execute(
        delete(BatchWatch).where(tuple_(BatchWatch.batch_id, BatchWatch.watcher).in_(expired))
    )


def _array(batch_ids: Sequence[UUID]) -> BindParameter[Sequence[UUID]]:
    return literal(batch_ids, ARRAY(PG_UUID(as_uuid=True)))
