"""What monitoring asks of the rows: how each host stands, in two statements for all of them.

And how long webhooks wait, in one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import extract, func, literal_column, select

from shared.models.states import StopState
from shared.models.webhooks import DeliveryState
from shared.storage.clock import now
from shared.storage.inventory import BREAKER
from shared.storage.stop_states import is_waiting
from shared.tables import CvmDrift, StopTask, VmHost, Webhook, WebhookDelivery


if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from sqlalchemy.orm import Session


BREAKER_STATES = ("closed", "open", "half_open")
"""What `inventory.BREAKER` may say."""


@dataclass(frozen=True, kw_only=True)
class HostGauges:
    """How one host stands."""

    name: str
    breaker: str
    """One of `BREAKER_STATES`."""
    open_stops: Mapping[StopState, int]
    """By state; states that no stop is in may be missing."""
    oldest_due_seconds: float
    """Since when the waiting stop is due that is due for longest; 0 if none is."""
    is_sync_failing: bool
    drifted: int
    """CVMs that were seen running on it though their newest stop has succeeded."""


_OLDEST_DUE = (
    # The first entry of the host in `ix_stop_tasks_waiting`.
    select(StopTask.due_at)
    .where(StopTask.vm_host_id == VmHost.id, is_waiting(StopTask.state))
    .order_by(StopTask.due_at)
    .limit(1)
    .correlate(VmHost)
    .scalar_subquery()
)

_DRIFTS = (
    # By the index of the open ones: drifts that have ended are not looked at.
    select(CvmDrift.vm_host_id, func.count().label("cvms"))
    .where(CvmDrift.ended_at.is_(None))
    .group_by(CvmDrift.vm_host_id)
    .subquery()
)

_HOSTS = select(
    VmHost.id,
    VmHost.name,
    BREAKER.label("breaker"),
    VmHost.sync_error.is_not(None).label("is_sync_failing"),
    func.coalesce(func.greatest(extract("epoch", now - _OLDEST_DUE), 0), 0).label("oldest_due"),
    func.coalesce(_DRIFTS.c.cvms, 0).label("drifted"),
).outerjoin(_DRIFTS, _DRIFTS.c.vm_host_id == VmHost.id)

_OPEN_STOPS = (
    select(StopTask.vm_host_id, StopTask.state, func.count().label("stops"))
    # What the indexes of open stops have: what has ended is not looked at, however much it is.
    .where(StopTask.finished_at.is_(None))
    .group_by(StopTask.vm_host_id, StopTask.state)
)


def read_oldest_due_delivery(session: Session) -> float:
    """Say for how many seconds the webhooks' delivery is due that waits longest; 0 if none is.

    One look into an index for each endpoint that is enabled.
    """
    first = (
        select(WebhookDelivery.next_at)
        .where(
            WebhookDelivery.webhook_id == Webhook.id,
            WebhookDelivery.state == literal_column(f"'{DeliveryState.PENDING}'"),
        )
        .order_by(WebhookDelivery.next_at)
        .limit(1)
        .correlate(Webhook)
        .scalar_subquery()
    )
    oldest = select(first.label("at")).where(Webhook.disabled_at.is_(None)).subquery()
    age = extract("epoch", now - func.min(oldest.c.at))
    return float(session.scalars(select(func.coalesce(func.greatest(age, 0), 0))).one())


def read_host_gauges(session: Session) -> list[HostGauges]:
    """Say how each host stands. Reads as many rows as there are hosts, open stops and drifts."""
    stops: defaultdict[UUID, dict[StopState, int]] = defaultdict(dict)
    for row in session.execute(_OPEN_STOPS):
        stops[row.vm_host_id][StopState(row.state)] = row.stops
    return [
        HostGauges(
            name=row.name,
            breaker=row.breaker,
            open_stops=stops[row.id],
            oldest_due_seconds=float(row.oldest_due),
            is_sync_failing=row.is_sync_failing,
            drifted=row.drifted,
        )
        for row in session.execute(_HOSTS)
    ]
