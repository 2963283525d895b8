"""From changes of stops to deliveries: each event once for each endpoint that may know of it.

Who reads, writes deliveries, and moves on does so in one transaction: whatever dies, all of it was
done or none. Deliveries are unique by endpoint and event, so that doing it twice changes nothing.
Nothing of this is in the way of a stop: what ends one writes what it always has (decision 0021).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from shared.models.states import StopState
from shared.models.webhooks import Event, WebhookEvent, in_utc
from shared.storage import webhook_events as storage


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from sqlalchemy.orm import Session

    from shared.models.snapshots import Snapshot
    from shared.storage.webhook_events import ChangeRow, Endpoint, Standing

log = structlog.get_logger(__name__)

CHANGES_AT_ONCE = 1_000
"""Ends of stops that one transaction looks at, unless one transaction made more of them."""

MOVE_AFTER = 60.0
"""Seconds after which it moves on though there was nothing to tell: until then nothing is written,
and the changes of so long are looked at again."""


@dataclass(frozen=True, kw_only=True)
class Consumed:
    """What one turn did."""

    told: int = 0
    """Deliveries of events to endpoints; some may have been there."""
    has_more: bool = False
    """There is more to look at right now."""
    has_endpoints: bool = True


def consume_changes(session: Session) -> Consumed:
    """Look at what was committed since the last turn, and write a delivery for each event.

    The caller commits. One consumer works at a time: a second one does nothing.
    """
    if storage.is_idle(session, moved_within=MOVE_AFTER):
        return Consumed(has_endpoints=False)
    standing = storage.lock_progress(session)
    if standing is None:
        return Consumed()
    if standing.now.xmax < standing.seen.xmax:
        # A database that was restored into another cluster counts its transactions anew.
        log.warning("webhooks: the database's transactions begin anew, and so do events")
        storage.move_progress(session, standing.now)
        return Consumed(has_endpoints=standing.has_endpoints)
    if not standing.has_endpoints:
        if standing.moved_ago >= MOVE_AFTER:
            storage.move_progress(session, standing.now)
        return Consumed(has_endpoints=False)
    rows = _read(session, standing, until=standing.now.xmax, limit=CHANGES_AT_ONCE + 1)
    seen = standing.now
    if len(rows) > CHANGES_AT_ONCE:
        seen = _part_of(standing, rows)
    elif not rows and standing.moved_ago < MOVE_AFTER:
        return Consumed()
    told = _tell(session, standing, rows, until=seen.xmax)
    storage.move_progress(session, seen)
    return Consumed(told=told, has_more=seen != standing.now)


def _read(
    session: Session,
    standing: Standing,
    *,
    until: int,
    limit: int,
    after: tuple[int, int] = (0, 0),
) -> list[ChangeRow]:
    return storage.read_ends(session, standing, until=until, after=after, limit=limit)


def _part_of(standing: Standing, rows: Sequence[ChangeRow]) -> Snapshot:
    """Give a snapshot that sees whole transactions, and about as many rows as were read."""
    until = rows[-1].transaction
    if until == rows[0].transaction:
        until += 1
    # What was seen before stays so.
    return standing.now.up_to(max(until, standing.seen.xmax))


def _tell(session: Session, standing: Standing, rows: list[ChangeRow], *, until: int) -> int:
    """Write the deliveries of events in transactions below `until`; gives how many."""
    by_workspace: defaultdict[UUID, list[Endpoint]] = defaultdict(list)
    for endpoint in storage.read_endpoints(session):
        by_workspace[endpoint.workspace_id].append(endpoint)
    told = 0
    batches: set[UUID] = set()
    page = [row for row in rows if row.transaction < until]
    while page:
        batches.update(row.batch_id for row in page)
        told += _write(session, by_workspace, _stop_events(session, page, list(by_workspace)))
        if len(page) < CHANGES_AT_ONCE:
            break
        last = page[-1]
        page = _read(
            session,
            standing,
            until=until,
            limit=CHANGES_AT_ONCE,
            after=(last.transaction, last.id),
        )
    # After the stops' own, and as of now: of two stops that end a batch together, the later one is
    # either seen to have ended, or will bring its batch here again.
    touched = sorted(batches)
    for first in range(0, len(touched), CHANGES_AT_ONCE):
        some = touched[first : first + CHANGES_AT_ONCE]
        told += _write(session, by_workspace, _batch_events(session, some, list(by_workspace)))
    return told


def _write(
    session: Session, by_workspace: dict[UUID, list[Endpoint]], events: Iterator[Event]
) -> int:
    told = [
        (endpoint.id, event)
        for event in events
        for endpoint in by_workspace.get(event.workspace_id, ())
        if event.kind in endpoint.events
        and (endpoint.by_admin or not event.for_admins)
        and event.happened_at >= endpoint.created_at
    ]
    storage.add_deliveries(session, told)
    return len(told)


def _stop_events(
    session: Session, rows: Sequence[ChangeRow], workspaces: Sequence[UUID]
) -> Iterator[Event]:
    """Give the events of stops that ended, for the workspaces of their CVMs."""
    kinds = {
        StopState.SUCCEEDED: WebhookEvent.STOP_SUCCEEDED,
        StopState.FAILED: WebhookEvent.STOP_FAILED,
    }
    ends = storage.read_stop_ends(session, [row.stop_task_id for row in rows], workspaces)
    for row in rows:
        kind, end = kinds.get(StopState(row.state)), ends.get(row.stop_task_id)
        if kind is None or end is None:
            continue
        data: dict[str, Any] = {
            "cvm_id": end.cvm_id,
            "cvm_name": end.cvm_name,
            "status": end.status,
            "host": end.host,
            "batch_id": str(end.batch_id),
            "stop_task_id": str(end.id),
        }
        if kind is WebhookEvent.STOP_FAILED:
            data["error"] = {"code": end.error_code, "message": end.error_message}
        yield Event(
            kind=kind,
            subject_id=end.id,
            batch_id=end.batch_id,
            workspace_id=end.workspace_id,
            for_admins=False,
            happened_at=row.at,
            workspace=end.workspace,
            data=data,
        )


def _batch_events(
    session: Session, batch_ids: Sequence[UUID], workspaces: Sequence[UUID]
) -> Iterator[Event]:
    """Give the events of batches that are finished, for the workspaces of who asked."""
    for batch in storage.read_finished(session, batch_ids, workspaces):
        yield Event(
            kind=WebhookEvent.BATCH_FINISHED,
            subject_id=batch.id,
            batch_id=batch.id,
            workspace_id=batch.workspace_id,
            for_admins=batch.by_admin,
            happened_at=batch.finished_at,
            workspace=batch.workspace,
            data={
                "batch_id": str(batch.id),
                "request_id": batch.request_id,
                "accepted_at": in_utc(batch.accepted_at),
                "finished_at": in_utc(batch.finished_at),
                "total": batch.total,
                "skipped": batch.skipped,
                "refused": batch.refused,
                "counts": {
                    "succeeded": batch.succeeded,
                    "failed": batch.failed,
                    "canceled": batch.canceled,
                },
            },
        )
