"""A host's cap and breaker, and how they stand at this moment.

Nothing is kept beside the rows of the stops: what runs on a host is counted, under the host's lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, Interval, Text, bindparam, case, func, null, or_, select, update
from sqlalchemy.orm import aliased

from shared.models.states import StopState
from shared.models.turns import Refusal
from shared.storage.clock import now
from shared.storage.compiled import CompiledStatement
from shared.storage.stop_states import is_one_of
from shared.tables import StopTask, VmHost


if TYPE_CHECKING:
    from datetime import timedelta
    from uuid import UUID

    from psycopg import Connection
    from sqlalchemy import ScalarSelect


@dataclass(frozen=True, kw_only=True)
class LockedHost:
    """A host whose row is locked, so that no other claim on it can happen meanwhile."""

    id: UUID
    max_concurrent_stops: int
    has_not_answered: bool
    """The last stop or sync did not reach it."""


def _stopping_on_host() -> ScalarSelect[int]:
    claimed = aliased(StopTask)
    return (
        select(func.count())
        .select_from(claimed)
        .where(claimed.vm_host_id == VmHost.id, is_one_of(claimed.state, StopState.STOPPING))
        .correlate(VmHost)
        .scalar_subquery()
    )


BREAKER_THRESHOLD = "breaker_threshold"
"""Parameter of every statement that `ROOM` is in: `Settings.breaker_threshold`."""

ROOM = (
    case(
        (VmHost.unreachable_count >= bindparam(BREAKER_THRESHOLD, type_=Integer), 1),
        else_=VmHost.max_concurrent_stops,
    )
    - _stopping_on_host()
)
"""How many more stops may be claimed on the host of the surrounding query.

The cap, or 1 while the breaker lets single stops through to try the host, less those claimed.
"""

BREAKER_IS_OPEN = func.coalesce(VmHost.breaker_open_until > now, False)
"""Whether the breaker of the host of the surrounding query is open."""


HAS_NOT_ANSWERED = or_(VmHost.unreachable_count > 0, VmHost.unreachable_since.is_not(None))
"""Whether the last stop or sync did not reach the host of the surrounding query."""


def refusal_of_host(*, breaker_is_open: bool, room: int) -> Refusal | None:
    """Say why nothing may be claimed on a host that stands so; None if something may."""
    if breaker_is_open:
        return Refusal.BREAKER_OPEN
    return Refusal.HOST_AT_CAP if room <= 0 else None


_NOTE_REACHABLE = CompiledStatement(
    update(VmHost)
    .where(VmHost.id == bindparam("host"), HAS_NOT_ANSWERED)
    .values(unreachable_count=0, breaker_open_until=None, last_error=None, unreachable_since=None)
)


def note_reachable(connection: Connection[Any], host: LockedHost) -> None:
    """Close a host's breaker: it has answered."""
    _NOTE_REACHABLE.run(connection, {"host": host.id})


_NOTE_UNREACHABLE = CompiledStatement(
    update(VmHost)
    .where(VmHost.id == bindparam("host"))
    .values(
        unreachable_count=VmHost.unreachable_count + 1,
        breaker_open_until=case(
            (
                VmHost.unreachable_count + 1 >= bindparam(BREAKER_THRESHOLD, type_=Integer),
                now + bindparam("cooldown", type_=Interval),
            ),
            else_=null(),
        ),
        last_error=bindparam("message", type_=Text),
        unreachable_since=func.coalesce(VmHost.unreachable_since, now),
    )
)


def note_unreachable(
    connection: Connection[Any],
    host: LockedHost,
    message: str,
    *,
    threshold: int,
    cooldown: timedelta,
) -> None:
    """Count an unreachable answer; from the threshold on, the breaker is open for the cooldown."""
    _NOTE_UNREACHABLE.run(
        connection,
        {
            "host": host.id,
            BREAKER_THRESHOLD: threshold,
            "cooldown": cooldown,
            "message": message,
        },
    )
