"""The round that tells endpoints: changes become deliveries, and due deliveries are begun."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from shared.database import transaction
from shared.failpoints import Failpoint, reach
from shared.models.webhooks import DeliveryState
from shared.services.webhook_events import Consumed, consume_changes
from shared.storage.webhook_deliveries import give_up_stale


if TYPE_CHECKING:
    from sqlalchemy import Engine

    from workers.metrics import WorkerMetrics
    from workers.webhooks.lanes import Lanes

log = structlog.get_logger(__name__)

ROUND_SECONDS = 5.0
"""After this long a round looks at no further changes: after an outage there may be many."""

ROWS_PER_STATEMENT = 1_000
"""Rows that one statement changes at most, so that no round holds locks for long."""


def run_round(engine: Engine, lanes: Lanes, metrics: WorkerMetrics) -> int:
    """Run one round; gives how many deliveries were begun.

    Raises
    ------
    DatabaseUnavailableError
        Nothing is lost: the next round does what this one could not.
    """
    until = time.monotonic() + ROUND_SECONDS
    done = Consumed(has_more=True)
    while done.has_more and time.monotonic() < until:
        with transaction(engine) as session:
            done = consume_changes(session)
        if done.told:
            reach(Failpoint.WEBHOOKS_WRITTEN)
            log.info("events written down", deliveries=done.told)
    if not done.has_endpoints:
        return 0
    with transaction(engine) as session:
        stale = give_up_stale(session, limit=ROWS_PER_STATEMENT)
    metrics.note_delivery(DeliveryState.FAILED, stale)
    return lanes.start_due()
