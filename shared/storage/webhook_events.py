"""From changes of stops to deliveries: what was not looked at yet, and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import (
    Text,
    and_,
    any_,
    cast,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.types import BigInteger

from shared.models.snapshots import Snapshot
from shared.models.states import OPEN_STATES, StopState
from shared.storage.clock import now
from shared.storage.stop_states import is_one_of
from shared.tables import (
    Cvm,
    StopBatch,
    StopChange,
    StopTask,
    VmHost,
    Webhook,
    WebhookDelivery,
    WebhookProgress,
    Workspace,
)


if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from shared.models.webhooks import Event

ENDS = (StopState.SUCCEEDED, StopState.FAILED, StopState.CANCELED)

_IDS = ARRAY(PG_UUID(as_uuid=True))
_SNAPSHOT = cast(func.pg_current_snapshot(), Text)
_ONLY = 1
"""The id of the one row of `webhook_progress`."""

CONSUMER_LOCK = 0x77656263
"""Number of the advisory lock that lets one consumer work at a time ("webc" in ASCII)."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where the consumer is, and what there is to see now."""

    seen: Snapshot
    now: Snapshot
    moved_ago: float
    """Seconds since it moved."""
    has_endpoints: bool


class ChangeRow(NamedTuple):
    """An end of a stop, as it was written down."""

    transaction: int
    id: int
    batch_id: UUID
    stop_task_id: UUID
    state: str
    at: datetime


class StopEnd(NamedTuple):
    """What is told of a stop that ended."""

    id: UUID
    batch_id: UUID
    workspace_id: UUID
    workspace: str
    cvm_id: str
    cvm_name: str
    status: str
    host: str
    error_code: str | None
    error_message: str | None


class FinishedBatch(NamedTuple):
    """What is told of a batch without an open stop."""

    id: UUID
    workspace_id: UUID
    workspace: str
    by_admin: bool
    request_id: str
    accepted_at: datetime
    finished_at: datetime
    total: int
    skipped: int
    refused: int
    succeeded: int
    failed: int
    canceled: int


class Endpoint(NamedTuple):
    """Who may be told."""

    id: UUID
    workspace_id: UUID
    by_admin: bool
    events: Sequence[str]
    created_at: datetime


def is_idle(session: Session, *, moved_within: float) -> bool:
    """Say whether there is nobody to tell, and it has moved on so lately (s). Writes nothing."""
    nobody = ~exists().where(Webhook.disabled_at.is_(None))
    lately = exists().where(WebhookProgress.moved_at > now - timedelta(seconds=moved_within))
    return bool(session.scalar(select(and_(nobody, lately))))


def lock_progress(session: Session) -> Standing | None:
    """Take the consumer's place until the transaction ends; None if another has it.

    The first one ever begins with what is now.
    """
    # Not the row's lock, which would be written down each second.
    if not session.scalar(select(func.pg_try_advisory_xact_lock(CONSUMER_LOCK))):
        return None
    # A later statement: it sees whatever the consumer before had seen.
    current, has_endpoints = session.execute(
        select(_SNAPSHOT, exists().where(Webhook.disabled_at.is_(None)))
    ).one()
    row = session.execute(
        select(WebhookProgress.seen, func.extract("epoch", now - WebhookProgress.moved_at))
    ).one_or_none()
    if row is None:
        session.execute(insert(WebhookProgress).values(id=_ONLY, seen=current))
    seen, moved_ago = (current, 0) if row is None else row
    return Standing(
        seen=Snapshot.parse(seen),
        now=Snapshot.parse(current),
        moved_ago=float(moved_ago),
        has_endpoints=has_endpoints,
    )


def move_progress(session: Session, seen: Snapshot) -> None:
    """Say that everything up to there was looked at."""
    session.execute(update(WebhookProgress).values(seen=str(seen), moved_at=now))


def read_ends(
    session: Session, standing: Standing, *, until: int, after: tuple[int, int], limit: int
) -> list[ChangeRow]:
    """Read ends of stops that are seen now and were not before, in the order of the primary key.

    Parameters
    ----------
    session
        In the transaction that has locked the progress.
    standing
        What was seen, and what is.
    until
        Only of transactions below it.
    after
        Transaction and id of the row behind which to begin.
    limit
        Rows at most.
    """
    transaction = StopChange.transaction
    rows = session.execute(
        select(
            transaction,
            StopChange.id,
            StopChange.batch_id,
            StopChange.stop_task_id,
            StopChange.state,
            StopChange.at,
        )
        .where(
            transaction >= standing.seen.xmin,
            transaction < until,
            tuple_(transaction, StopChange.id) > after,
            or_(transaction >= standing.seen.xmax, _is_among(standing.seen.running)),
            not_(_is_among(standing.now.running)),
            is_one_of(StopChange.state, *ENDS),
        )
        .order_by(transaction, StopChange.id)
        .limit(limit)
    )
    return [ChangeRow(*row) for row in rows]


def _is_among(running: Collection[int]) -> ColumnElement[bool]:
    return StopChange.transaction == any_(literal(sorted(running), ARRAY(BigInteger)))


def read_endpoints(session: Session) -> list[Endpoint]:
    """Read who may be told."""
    rows = session.execute(
        select(
            Webhook.id, Webhook.workspace_id, Webhook.by_admin, Webhook.events, Webhook.created_at
        ).where(Webhook.disabled_at.is_(None))
    )
    return [Endpoint(*row) for row in rows]


def read_stop_ends(
    session: Session, stop_task_ids: Collection[UUID], workspaces: Collection[UUID]
) -> dict[UUID, StopEnd]:
    """Read what is told of stops on CVMs of some workspaces; purged ones are left out."""
    rows = session.execute(
        select(
            StopTask.id,
            StopTask.batch_id,
            StopTask.workspace_id,
            Workspace.name,
            Cvm.hash_id,
            Cvm.name,
            Cvm.status,
            VmHost.name,
            StopTask.error_code,
            StopTask.error_message,
        )
        .join(Cvm, Cvm.id == StopTask.cvm_id)
        .join(VmHost, VmHost.id == StopTask.vm_host_id)
        .join(Workspace, Workspace.id == StopTask.workspace_id)
        .where(
            StopTask.id == any_(literal(list(stop_task_ids), _IDS)),
            StopTask.workspace_id == any_(literal(list(workspaces), _IDS)),
        )
    )
    return {end.id: end for end in map(StopEnd._make, rows)}


def read_finished(
    session: Session, batch_ids: Collection[UUID], workspaces: Collection[UUID]
) -> list[FinishedBatch]:
    """Read those of some workspaces' batches that have no open stop; purged ones are left out."""

    def count(*states: StopState) -> ColumnElement[int]:
        return func.count().filter(is_one_of(StopTask.state, *states))

    rows = session.execute(
        select(
            StopBatch.id,
            StopBatch.workspace_id,
            Workspace.name,
            StopBatch.by_admin,
            StopBatch.request_id,
            StopBatch.accepted_at,
            func.max(StopTask.finished_at),
            StopBatch.total,
            StopBatch.skipped,
            func.jsonb_array_length(StopBatch.errors),
            *(count(state) for state in ENDS),
        )
        .join(Workspace, Workspace.id == StopBatch.workspace_id)
        .join(StopTask, StopTask.batch_id == StopBatch.id)
        .where(
            StopBatch.id == any_(literal(list(batch_ids), _IDS)),
            StopBatch.workspace_id == any_(literal(list(workspaces), _IDS)),
        )
        .group_by(StopBatch.id, Workspace.name)
        .having(count(*OPEN_STATES) == 0)
    )
    return [FinishedBatch._make(row) for row in rows]


def add_deliveries(session: Session, told: Sequence[tuple[UUID, Event]]) -> None:
    """Write deliveries of events to endpoints; those that are there already stay as they are."""
    if not told:
        return
    session.execute(
        insert(WebhookDelivery).on_conflict_do_nothing(
            index_elements=["webhook_id", "event", "subject_id"]
        ),
        [
            {
                "webhook_id": webhook_id,
                "event_id": event.id,
                "event": event.kind,
                "subject_id": event.subject_id,
                "batch_id": event.batch_id,
                "body": event.body(),
            }
            for webhook_id, event in told
        ],
    )
