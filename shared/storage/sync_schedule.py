"""When each host is asked for its list, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import (
    Double,
    and_,
    bindparam,
    case,
    extract,
    func,
    literal,
    or_,
    select,
    update,
)

from shared.models.hosts import SealedHost
from shared.models.inventory import HostToSync
from shared.storage.clock import now
from shared.storage.host_standing import BREAKER_IS_OPEN
from shared.tables import VmHost


if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy.orm import Session

LONGEST_WAIT = 10
"""Intervals between two tries of a host that does not answer, at most."""

JITTER = 0.4
"""Share of an interval by which waits differ: from 0.8 to 1.2. What was due at once, as after an
outage, is spread out within some rounds.
"""

_EVERY = bindparam("every", type_=Double)

_SINCE_ANSWER = extract(
    "epoch", func.now() - func.coalesce(VmHost.synced_at, VmHost.created_at)
).cast(Double)

_SECONDS = case(
    (VmHost.sync_error.is_(None), _EVERY),
    # As long again as it has not answered: twice as long each time.
    else_=func.least(func.greatest(_SINCE_ANSWER, _EVERY), _EVERY * LONGEST_WAIT),
).cast(Double)

_WAIT = func.make_interval(
    0, 0, 0, 0, 0, 0, _SECONDS * (1 - JITTER / 2 + JITTER * func.random(type_=Double))
)

_TOO_LONG = _EVERY * (2 * LONGEST_WAIT)

# Compared with the transaction's time: `clock.now` is another at each row.
_DUE = (
    select(VmHost.id)
    .where(
        or_(
            VmHost.next_sync_at <= func.now(),
            # Nobody waits for so long: the clock was ahead when it was written.
            VmHost.next_sync_at > func.now() + func.make_interval(0, 0, 0, 0, 0, 0, _TOO_LONG),
        )
    )
    .order_by(VmHost.next_sync_at)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True, key_share=True)
    .cte("due")
)
_TAKE_DUE = (
    update(VmHost)
    .where(VmHost.id == _DUE.c.id)
    .values(next_sync_at=func.now() + _WAIT)
    .returning(VmHost.id)
)


def take_due(session: Session, *, every: float, limit: int) -> list[UUID]:
    """Find the hosts whose list is to be read now, and put each off by about `every` seconds.

    Any number of these may run: hosts that somebody has locked wait for the next one.
    """
    rows = session.connection().execute(_TAKE_DUE, {"every": every, "most": limit})
    return list(rows.scalars())


def find_host(session: Session, host_id: UUID) -> HostToSync | None:
    """Read how a host is reached, and the time; None when it is gone."""
    row = session.execute(
        select(
            VmHost.name,
            VmHost.driver,
            VmHost.address,
            VmHost.sealed_credentials,
            now.label("asked_at"),
            BREAKER_IS_OPEN.label("breaker_is_open"),
        ).where(VmHost.id == host_id)
    ).one_or_none()
    if row is None:
        return None
    return HostToSync(
        id=host_id,
        reached_by=SealedHost(
            name=row.name,
            driver=row.driver,
            address=row.address,
            sealed_credentials=row.sealed_credentials,
        ),
        asked_at=row.asked_at,
        breaker_is_open=row.breaker_is_open,
    )


def note_failure(
    session: Session, host_id: UUID, message: str, *, asked_at: datetime, is_unreachable: bool
) -> None:
    """Write down why nothing was learnt from a host, unless a newer list was.

    That it did not answer is kept with it, and is nothing to its breaker.
    """
    since = VmHost.unreachable_since
    session.execute(
        update(VmHost)
        .where(
            VmHost.id == host_id,
            or_(VmHost.synced_at.is_(None), VmHost.synced_at < asked_at),
            or_(
                VmHost.sync_error.is_distinct_from(literal(message)),
                and_(since.is_(None), literal(is_unreachable)),
            ),
        )
        .values(
            sync_error=message,
            unreachable_since=func.coalesce(since, now) if is_unreachable else since,
        )
        .execution_options(synchronize_session=False)
    )
