"""The round that has hosts' lists read: it finds those that are due, and sends a message for each.

A message that is lost costs its host one interval; one that comes twice does no harm. Several
rounds at once do none either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from shared.database import transaction
from shared.exceptions import BrokerUnavailableError
from shared.storage.sync_schedule import take_due


if TYPE_CHECKING:
    from sqlalchemy import Engine

    from shared.broker import Broker
    from shared.settings import Settings

log = structlog.get_logger(__name__)

ENOUGH_WAITING = 100
"""Messages that may wait in the broker before none is sent for a sync.

A tenth of what the dispatcher fills up to: where workers are behind, or away, stops go first, and
the messages of syncs do not pile up.
"""


def send_due(engine: Engine, broker: Broker, settings: Settings) -> int:
    """Send a message for each host whose list is due to be read; gives how many.

    Raises
    ------
    DatabaseUnavailableError
        Nothing is lost: what is due stays so.
    """
    if not settings.sync_interval:
        return 0
    try:
        room = ENOUGH_WAITING - broker.count_waiting()
        if room <= 0:
            return 0
        with transaction(engine) as session:
            due = take_due(session, every=settings.sync_interval, limit=room)
        # After the commit. What is not sent is due again after its interval.
        broker.send_syncs(due, expires=settings.sync_interval)
    except BrokerUnavailableError as error:
        log.warning("broker unavailable, hosts are not synced", error=str(error))
        return 0
    return len(due)
