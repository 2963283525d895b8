"""Failures by reason and host, from the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import aliased

from shared.storage.stop_conditions import conditions, in_the_text
from shared.tables import StopTask, VmHost


if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session

    from shared.models.pages import StopFilter

MOST_READ = 10_000
"""Failures that are grouped at most, the newest: some hundredths of a second."""


class Group(NamedTuple):
    """Failures with one code on one host."""

    error_code: str
    host: str
    failures: int
    oldest_at: datetime
    newest_at: datetime
    sample_id: UUID
    sample_message: str | None


class Groups(NamedTuple):
    """Groups, the biggest first, and what they were made of."""

    groups: Sequence[Group]
    counted: int
    number: int
    """Of groups, also those beyond the limit."""
    is_cut_off: bool


def group_failures(
    session: Session, wanted: StopFilter, *, sees_only: UUID | None, limit: int
) -> Groups:
    """Group stops by error code and host; `wanted` must be of failures. At most `limit` groups."""
    newest_first = (StopTask.accepted_at.desc(), StopTask.id.desc())
    read = (
        select(StopTask.id, StopTask.error_code, StopTask.vm_host_id, StopTask.accepted_at)
        .where(*conditions(wanted, sees_only=sees_only))
        .order_by(*newest_first)
        # One more than are counted says that there are more.
        .limit(in_the_text(MOST_READ + 1, "most"))
        .cte("read")
        .prefix_with("MATERIALIZED")
    )
    counted = (
        select(read)
        .order_by(read.c.accepted_at.desc(), read.c.id.desc())
        .limit(in_the_text(MOST_READ, "counted"))
        .subquery()
    )
    grouped = (
        select(
            counted.c.error_code,
            counted.c.vm_host_id,
            func.count().label("failures"),
            func.min(counted.c.accepted_at).label("oldest_at"),
            func.max(counted.c.accepted_at).label("newest_at"),
            # The newest one's.
            func.array_agg(
                aggregate_order_by(counted.c.id, counted.c.accepted_at.desc(), counted.c.id.desc())
            )[1].label("sample_id"),
            func.count().over().label("number"),
        )
        .group_by(counted.c.error_code, counted.c.vm_host_id)
        .order_by(func.count().desc(), func.max(counted.c.accepted_at).desc())
        .limit(in_the_text(limit, "groups"))
        .subquery()
    )
    sample = aliased(StopTask)
    rows = session.execute(
        select(
            grouped.c.error_code,
            VmHost.name,
            grouped.c.failures,
            grouped.c.oldest_at,
            grouped.c.newest_at,
            grouped.c.sample_id,
            sample.error_message,
            grouped.c.number,
            select(func.count()).select_from(read).scalar_subquery().label("read"),
        )
        .join(VmHost, VmHost.id == grouped.c.vm_host_id)
        .join(sample, sample.id == grouped.c.sample_id)
        .order_by(
            grouped.c.failures.desc(),
            grouped.c.newest_at.desc(),
            VmHost.name,
            grouped.c.error_code,
        )
    ).all()
    if not rows:
        return Groups(groups=[], counted=0, number=0, is_cut_off=False)
    return Groups(
        groups=[Group(*row[:7]) for row in rows],
        counted=min(rows[0].read, MOST_READ),
        number=rows[0].number,
        is_cut_off=rows[0].read > MOST_READ,
    )
