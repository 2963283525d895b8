"""Looking up batches, stop tasks and attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from sqlalchemy import Select, func, select, tuple_
from sqlalchemy.orm import aliased

from shared.storage.stop_conditions import conditions, in_the_text, newest_retry, seen_by
from shared.tables import Cvm, StopAttempt, StopBatch, StopTask, User, VmHost, Workspace


if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from shared.models.pages import Cursor, StopFilter
    from shared.models.states import StopState


class StopRecord(NamedTuple):
    """A stop task with the names that people know things by."""

    task: StopTask
    cvm_id: str
    host: str
    workspace: str
    retry_of: UUID | None
    """The stop that it tries again, if the caller may see that."""
    retried_by: UUID | None
    """Its newest retry, if the caller may see that."""


class BatchRecord(NamedTuple):
    """A batch with the names of who asked."""

    batch: StopBatch
    user: str
    workspace: str


def _stops(sees_only: UUID | None) -> Select[StopTask, str, str, str, UUID, UUID]:
    """Select all stops, also those that the caller may not see."""
    # A CVM may have come from another workspace since: its stops there are none of the caller's.
    before = aliased(StopTask)
    retry_of = select(before.id).where(before.id == StopTask.retry_of)
    if sees_only is not None:
        retry_of = retry_of.where(before.workspace_id == sees_only)
    return (
        select(
            StopTask,
            Cvm.hash_id,
            VmHost.name,
            Workspace.name,
            retry_of.scalar_subquery(),
            newest_retry(sees_only),
        )
        .join(Cvm, Cvm.id == StopTask.cvm_id)
        .join(VmHost, VmHost.id == StopTask.vm_host_id)
        .join(Workspace, Workspace.id == StopTask.workspace_id)
    )


def _batches(sees_only: UUID | None) -> Select[StopBatch, str, str]:
    query = (
        select(StopBatch, User.name, Workspace.name)
        .join(User, User.id == StopBatch.user_id)
        .join(Workspace, Workspace.id == StopBatch.workspace_id)
    )
    if sees_only is None:
        return query
    return query.where(StopBatch.workspace_id == sees_only, StopBatch.by_admin.is_(False))


def list_stops(
    session: Session,
    wanted: StopFilter,
    *,
    sees_only: UUID | None,
    after: Cursor | None,
    limit: int,
) -> list[StopRecord]:
    """List stop tasks, newest first; at most `limit` of those behind the cursor."""
    query = _stops(sees_only).where(*conditions(wanted, sees_only=sees_only))
    if after is not None:
        behind = tuple_(StopTask.accepted_at, StopTask.id) < (after.accepted_at, after.row_id)
        query = query.where(behind)
    query = query.order_by(StopTask.accepted_at.desc(), StopTask.id.desc()).limit(
        in_the_text(limit)
    )
    return [StopRecord(*row) for row in session.execute(query)]


def find_stop(session: Session, stop_task_id: UUID, *, sees_only: UUID | None) -> StopRecord | None:
    """Find one stop task that the caller may see."""
    query = _stops(sees_only).where(StopTask.id == stop_task_id, *seen_by(sees_only))
    row = session.execute(query).one_or_none()
    return None if row is None else StopRecord(*row)


def list_attempts(session: Session, stop_task_id: UUID) -> Sequence[StopAttempt]:
    """List every attempt of a stop task, the first one first."""
    return session.scalars(
        select(StopAttempt)
        .where(StopAttempt.stop_task_id == stop_task_id)
        .order_by(StopAttempt.number)
    ).all()


def list_batches(
    session: Session, *, sees_only: UUID | None, after: Cursor | None, limit: int
) -> list[BatchRecord]:
    """List batches, newest first; at most `limit` of those behind the cursor."""
    query = _batches(sees_only)
    if after is not None:
        behind = tuple_(StopBatch.accepted_at, StopBatch.id) < (after.accepted_at, after.row_id)
        query = query.where(behind)
    query = query.order_by(StopBatch.accepted_at.desc(), StopBatch.id.desc()).limit(
        in_the_text(limit)
    )
    return [BatchRecord(*row) for row in session.execute(query)]


def find_batch(session: Session, batch_id: UUID, *, sees_only: UUID | None) -> BatchRecord | None:
    """Find one batch that the caller may see."""
    row = session.execute(_batches(sees_only).where(StopBatch.id == batch_id)).one_or_none()
    return None if row is None else BatchRecord(*row)


def find_in_states(session: Session, batch_id: UUID, *states: StopState) -> list[UUID]:
    """Give the stops of a batch that are in some states.

    The batch's stops are read, and then told apart: with the states in the statement, all open
    stops that there are seem to be a shorter way to them.
    """
    rows = session.execute(select(StopTask.id, StopTask.state).where(StopTask.batch_id == batch_id))
    return [row.id for row in rows if row.state in states]


def is_by_admin(session: Session, batch_id: UUID) -> bool:
    """Say whether an admin asked for a batch that there is."""
    return session.execute(select(StopBatch.by_admin).where(StopBatch.id == batch_id)).scalar_one()


def count_by_state(session: Session, batch_ids: Sequence[UUID]) -> dict[UUID, dict[str, int]]:
    """Count each batch's stop tasks by state; states without any are left out."""
    rows: Any = session.execute(
        select(StopTask.batch_id, StopTask.state, func.count())
        .where(StopTask.batch_id.in_(batch_ids))
        .group_by(StopTask.batch_id, StopTask.state)
    )
    counts: dict[UUID, dict[str, int]] = {batch_id: {} for batch_id in batch_ids}
    for batch_id, state, count in rows:
        counts[batch_id][state] = count
    return counts
