"""A host's cap and breaker, and how they stand at this moment.

Nothing is kept beside the rows of the stops: what runs on a host is counted, under the host's lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Interval, case, func, literal, select, update
from sqlalchemy.orm import aliased

from shared.models.states import StopState
from shared.models.turns import Refusal
from shared.storage.clock import now
from shared.tables import StopTask, VmHost


if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session


@dataclass(frozen=True, kw_only=True)
class LockedHost:
    """A host whose row is locked, so that no other claim on it can happen meanwhile."""

    row: VmHost
    refusal: Refusal | None
    """Why nothing may be claimed on it now; None if something may."""


def effective_cap(breaker_threshold: int) -> ColumnElement[int]:
    """Give the host's cap, or 1 while its breaker lets single stops through to try it."""
    return case(
        (VmHost.unreachable_count >= breaker_threshold, 1), else_=VmHost.max_concurrent_stops
    )


def stopping_on_host() -> ColumnElement[int]:
    """Count the claimed stops of the host in the surrounding query."""
    claimed = aliased(StopTask)
    return (
        select(func.count())
        .select_from(claimed)
        .where(claimed.vm_host_id == VmHost.id, claimed.state == StopState.STOPPING)
        .correlate(VmHost)
        .scalar_subquery()
    )


def lock_host(session: Session, vm_host_id: UUID, *, breaker_threshold: int) -> LockedHost:
    """Lock a host's row, then look at what runs on it.

    Two statements: the second one's snapshot is taken after the lock was got, and so sees what
    the transaction that held it before has done.
    """
    host = session.execute(
        select(VmHost).where(VmHost.id == vm_host_id).with_for_update(key_share=True)
    ).scalar_one()
    breaker_is_open, room = session.execute(
        select(*standing_of_host(breaker_threshold)).where(VmHost.id == vm_host_id)
    ).one()
    return LockedHost(row=host, refusal=refusal_of_host(breaker_is_open=breaker_is_open, room=room))


def standing_of_host(breaker_threshold: int) -> tuple[ColumnElement[bool], ColumnElement[int]]:
    """Whether the host's breaker is open, and how many more stops may be claimed on it."""
    return (
        func.coalesce(VmHost.breaker_open_until > now, False),
        effective_cap(breaker_threshold) - stopping_on_host(),
    )


def refusal_of_host(*, breaker_is_open: bool, room: int) -> Refusal | None:
    """Say why nothing may be claimed on a host that stands so; None if something may."""
    if breaker_is_open:
        return Refusal.BREAKER_OPEN
    return Refusal.HOST_AT_CAP if room <= 0 else None


def note_reachable(session: Session, host: VmHost) -> None:
    """Close a host's breaker: it has answered."""
    session.execute(
        update(VmHost)
        .where(VmHost.id == host.id, VmHost.unreachable_count > 0)
        .values(unreachable_count=0, breaker_open_until=None, last_error=None)
        .execution_options(synchronize_session=False)
    )


def note_unreachable(
    session: Session, host: VmHost, message: str, *, threshold: int, cooldown: timedelta
) -> None:
    """Count an unreachable answer; from the threshold on, the breaker is open for the cooldown."""
    opens = VmHost.unreachable_count + 1 >= threshold
    session.execute(
        update(VmHost)
        .where(VmHost.id == host.id)
        .values(
            unreachable_count=VmHost.unreachable_count + 1,
            breaker_open_until=case((opens, now + literal(cooldown, Interval)), else_=None),
            last_error=message,
        )
        .execution_options(synchronize_session=False)
    )
