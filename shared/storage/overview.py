"""What an operator sees at a glance, from the rows: hosts, stops that are open or have ended."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Double, case, extract, func, literal_column, select

from shared.models.states import StopState
from shared.storage.clock import now
from shared.storage.inventory import BREAKER
from shared.storage.stop_conditions import in_the_text, seen_by
from shared.storage.stop_states import is_waiting
from shared.tables import Cvm, StopTask, VmHost


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from sqlalchemy import ColumnElement, Row, RowMapping, Subquery
    from sqlalchemy.orm import Session

MOST_READ = 500_000
"""Stops that one chart is made of at most, the newest: half a second."""


class OpenCount(NamedTuple):
    """Open stops in one state."""

    state: str
    stops: int
    oldest_accepted_at: datetime
    oldest_due_seconds: float


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Which stops that have ended are wanted, and in buckets of what length."""

    hours: int
    deadline: timedelta
    """How long after it was accepted a stop ends at the latest."""
    begins_at: datetime
    """When the first bucket begins, `hours` ago."""
    each: timedelta
    """Length of a bucket."""
    sees_only: UUID | None


class EndedBuckets(NamedTuple):
    """Stops that have ended, in buckets."""

    rows: Mapping[datetime, Row[Any]]
    """By when the bucket begins; buckets without any are left out."""
    cut_off_at: datetime | None
    """If there were more than `MOST_READ`: the ones accepted before that were not read."""


def list_hosts(session: Session, *, sees_only: UUID | None) -> Sequence[RowMapping]:
    """Read how hosts stand, by name; of a workspace, those that it has CVMs on.

    Gives `HostHealth`'s fields, whoever asks, but for `is_reachable`; counts are of stops that the
    caller may see.
    """
    stops = (
        select(
            StopTask.vm_host_id,
            func.count().filter(StopTask.state == StopState.STOPPING).label("stopping"),
            func.count().filter(StopTask.state != StopState.STOPPING).label("waiting"),
        )
        # What the indexes of open stops have: what has ended is not looked at, however much it is.
        .where(StopTask.finished_at.is_(None), *seen_by(sees_only))
        .group_by(StopTask.vm_host_id)
        .subquery()
    )
    query = (
        select(
            VmHost.name,
            VmHost.driver,
            VmHost.address,
            VmHost.disabled_at,
            BREAKER.label("breaker"),
            VmHost.unreachable_since,
            VmHost.last_error,
            VmHost.max_concurrent_stops.label("cap"),
            func.coalesce(stops.c.stopping, 0).label("stopping"),
            func.coalesce(stops.c.waiting, 0).label("waiting"),
            VmHost.synced_at,
            VmHost.sync_error,
        )
        .outerjoin(stops, stops.c.vm_host_id == VmHost.id)
        .order_by(VmHost.name)
    )
    if sees_only is not None:
        # One look into an index for each host. A join would read all CVMs of the workspace.
        has_a_cvm = (
            select(Cvm.vm_host_id)
            .where(Cvm.workspace_id == sees_only, Cvm.vm_host_id == VmHost.id)
            .limit(in_the_text(1, "one"))
            .correlate(VmHost)
            .scalar_subquery()
        )
        query = query.where(has_a_cvm.is_not(None))
    return session.execute(query).mappings().all()


def count_open(session: Session, *, sees_only: UUID | None) -> list[OpenCount]:
    """Count open stops by state; states without any are left out."""
    due = extract("epoch", now - func.min(StopTask.due_at))
    rows = session.execute(
        select(
            StopTask.state,
            func.count(),
            func.min(StopTask.accepted_at),
            case((is_waiting(StopTask.state), func.greatest(due, 0)), else_=0),
        )
        .where(StopTask.finished_at.is_(None), *seen_by(sees_only))
        .group_by(StopTask.state)
    )
    return [OpenCount(state, stops, oldest, float(since)) for state, stops, oldest, since in rows]


def read_time(session: Session) -> datetime:
    """Read when the transaction began."""
    return session.execute(select(func.now())).scalar_one()


def count_ended(session: Session, wanted: Ended) -> EndedBuckets:
    """Count stops by when they ended; rows have `succeeded`, `failed` and `canceled`."""
    return _read_ended(
        session,
        wanted,
        lambda recent: [
            func.count().filter(recent.c.state == state).label(state)
            for state in (StopState.SUCCEEDED, StopState.FAILED, StopState.CANCELED)
        ],
    )


def time_succeeded(session: Session, wanted: Ended) -> EndedBuckets:
    """Say how long stops took that succeeded, by when they ended.

    Rows have `stops`, and `p50`, `p95` and `longest` in seconds from accepted to ended.
    """

    def values(recent: Subquery) -> list[ColumnElement[Any]]:
        succeeded = recent.c.state == StopState.SUCCEEDED
        seconds = extract("epoch", recent.c.finished_at - recent.c.accepted_at).cast(Double)
        return [
            func.count().filter(succeeded).label("stops"),
            func.percentile_cont(0.5).within_group(seconds).filter(succeeded).label("p50"),
            func.percentile_cont(0.95).within_group(seconds).filter(succeeded).label("p95"),
            func.max(seconds).filter(succeeded).label("longest"),
        ]

    return _read_ended(session, wanted, values)


def _read_ended(
    session: Session, wanted: Ended, values: Callable[[Subquery], list[ColumnElement[Any]]]
) -> EndedBuckets:
    # Nothing has an index by when it ended, as each stop would write to it once more; but in the
    # order of being accepted they have one, and each ends within its deadline of that. How far back
    # stands in the text: a plan for any time takes a third of all rows for wanted.
    reach = wanted.hours * 3_600 + math.ceil(wanted.deadline.total_seconds())
    recent = (
        select(StopTask.state, StopTask.accepted_at, StopTask.finished_at)
        .where(
            StopTask.accepted_at >= func.now() - literal_column(f"interval '{reach} seconds'"),
            *seen_by(wanted.sees_only),
        )
        .order_by(StopTask.accepted_at.desc(), StopTask.id.desc())
        .limit(in_the_text(MOST_READ, "most"))
        .subquery()
    )
    bucket = func.date_bin(wanted.each, recent.c.finished_at, wanted.begins_at).label("begins_at")
    rows = session.execute(
        select(
            bucket,
            func.count().label("read"),
            func.min(recent.c.accepted_at).label("oldest"),
            *values(recent),
        ).group_by(bucket)
    ).all()
    is_cut_off = sum(row.read for row in rows) >= MOST_READ
    return EndedBuckets(
        # Beside these, the open ones, and those that ended before.
        rows={row.begins_at: row for row in rows if row.begins_at},
        cut_off_at=min(row.oldest for row in rows) if is_cut_off else None,
    )
