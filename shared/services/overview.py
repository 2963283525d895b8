"""What an operator sees at a glance: hosts, open stops, how many end, and how long they take."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import TYPE_CHECKING

from shared.exceptions import InvalidValueError
from shared.models.overview import (
    MAX_HOURS,
    HostHealth,
    OpenStops,
    Pace,
    PaceChart,
    TimesChart,
    TimeToStopped,
)
from shared.models.states import OPEN_STATES
from shared.storage import overview as storage


if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import RowMapping
    from sqlalchemy.orm import Session

    from shared.models.callers import Caller
    from shared.settings import LifetimeSettings
    from shared.storage.overview import Ended, EndedBuckets

A_MINUTE = timedelta(minutes=1)
FIVE_MINUTES = timedelta(minutes=5)


def host_health(session: Session, caller: Caller) -> list[HostHealth]:
    """Say how each host stands, by name: for a member, those that its workspace has CVMs on."""
    rows = storage.list_hosts(session, sees_only=caller.sees_only)
    return [_health(row, is_member=caller.sees_only is not None) for row in rows]


def open_stops(session: Session, caller: Caller) -> OpenStops:
    """Count the stops that have not ended, as far as the caller may see them."""
    found = storage.count_open(session, sees_only=caller.sees_only)
    counts = {each.state: each.stops for each in found}
    return OpenStops(
        counts={state: counts.get(state, 0) for state in OPEN_STATES},
        oldest_accepted_at=min((each.oldest_accepted_at for each in found), default=None),
        oldest_due_seconds=max((each.oldest_due_seconds for each in found), default=0.0),
    )


def pace(session: Session, caller: Caller, *, hours: int, settings: LifetimeSettings) -> PaceChart:
    """Count the stops that ended in each minute of the last hours.

    A stop is missing that ended longer after it was accepted than those hours and
    `settings.stop_deadline`, as happens when no dispatcher ran for so long.

    Raises
    ------
    InvalidValueError
        `hours` is not from 1 to `MAX_HOURS`.
    """
    wanted = _wanted(session, caller, hours, A_MINUTE, settings)
    found = storage.count_ended(session, wanted)
    minutes = []
    for begins_at in _buckets(wanted):
        row = found.rows.get(begins_at)
        minutes.append(
            Pace(
                begins_at=begins_at,
                succeeded=row.succeeded if row else 0,
                failed=row.failed if row else 0,
                canceled=row.canceled if row else 0,
            )
        )
    return PaceChart(minutes=tuple(minutes), complete_since=_complete_since(wanted, found))


def times_to_stopped(
    session: Session,
    caller: Caller,
    *,
    hours: int,
    settings: LifetimeSettings,
    each: timedelta = FIVE_MINUTES,
) -> TimesChart:
    """Say how long stops took that succeeded in the last hours; what is missing, as `pace` has it.

    Raises
    ------
    InvalidValueError
        `hours` is not from 1 to `MAX_HOURS`.
    """
    wanted = _wanted(session, caller, hours, each, settings)
    found = storage.time_succeeded(session, wanted)
    buckets = []
    for begins_at in _buckets(wanted):
        row = found.rows.get(begins_at)
        buckets.append(
            TimeToStopped(
                begins_at=begins_at,
                count=row.stops if row else 0,
                p50=row.p50 if row else None,
                p95=row.p95 if row else None,
                longest=row.longest if row else None,
            )
        )
    complete_since = _complete_since(wanted, found)
    return TimesChart(buckets=tuple(buckets), each=each, complete_since=complete_since)


def _health(row: RowMapping, *, is_member: bool) -> HostHealth:
    is_away = row["unreachable_since"] is not None
    # Of stops that it answered nothing is kept with it.
    has_answered = row["synced_at"] is not None
    told = dict(row)
    if is_away and row["last_error"] is None:
        told["last_error"] = row["sync_error"]
    if is_member:
        told.update(address=None, last_error=None, sync_error=None)
    return HostHealth(
        **told,
        is_reachable=not is_away if is_away or has_answered else None,
        is_sync_failing=row["sync_error"] is not None,
    )


def _wanted(
    session: Session,
    caller: Caller,
    hours: int,
    each: timedelta,
    settings: LifetimeSettings,
) -> Ended:
    if not 1 <= hours <= MAX_HOURS:
        msg = f"hours must be from 1 to {MAX_HOURS}"
        raise InvalidValueError(msg)
    now = storage.read_time(session).astimezone(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    ends_at = midnight + each * ((now - midnight) // each + 1)
    return storage.Ended(
        hours=hours,
        deadline=timedelta(seconds=settings.stop_deadline),
        begins_at=ends_at - timedelta(hours=hours),
        each=each,
        sees_only=caller.sees_only,
    )


def _buckets(wanted: Ended) -> list[datetime]:
    count = timedelta(hours=wanted.hours) // wanted.each
    return [wanted.begins_at + wanted.each * number for number in range(count)]


def _complete_since(wanted: Ended, found: EndedBuckets) -> datetime:
    """Say from when on nothing is missing: what was not read had ended by then."""
    if found.cut_off_at is None:
        return wanted.begins_at
    return max(wanted.begins_at, found.cut_off_at + wanted.deadline)
