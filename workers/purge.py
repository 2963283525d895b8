"""The purge: finished batches that are older than the retention are deleted, a few at a time.

Several purges at once do no harm: what one is deleting the others pass over.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from shared.database import transaction
from shared.storage.purging import Purged, delete_oldest
from shared.storage.webhook_deliveries import delete_old


if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from shared.settings import Settings

log = structlog.get_logger(__name__)

BATCHES_PER_TRANSACTION = 20
"""Batches that one transaction deletes at most: 1,000 stops."""

ATTEMPTS_PER_TRANSACTION = 5_000
"""Attempts that one transaction deletes at most, unless one batch alone has more.

A stop mostly has one or two, but sixty where its VM took the whole deadline, with long answers: 20
such batches took twice as long as a statement may, and would have been tried again for ever.
"""

DELIVERIES_PER_TRANSACTION = 1_000
"""Webhooks' deliveries that one transaction deletes at most."""

ROUND_SECONDS = 5.0
"""After this long a round begins no further transaction.

A worker that is told to end waits for its round, and has 30 s in Docker Compose.
"""


def purge(engine: Engine, *, older_than: timedelta) -> Iterator[Purged]:
    """Delete all that may go, one short transaction after the other; gives what each deleted.

    Parameters
    ----------
    engine
        Of the process.
    older_than
        Least time since a batch was accepted.

    Raises
    ------
    DatabaseUnavailableError
        What was given before is deleted; the rest is left.
    """
    while True:
        with transaction(engine) as session:
            done = delete_oldest(
                session.connection(),
                older_than=older_than,
                limit=BATCHES_PER_TRANSACTION,
                attempts=ATTEMPTS_PER_TRANSACTION,
            )
        if not done.batches:
            return
        yield done


def run_purge(engine: Engine, settings: Settings) -> Purged:
    """Run one round: delete what is older than the retention, for `ROUND_SECONDS` at most.

    And webhooks' deliveries that are older than theirs, for as long.

    Raises
    ------
    DatabaseUnavailableError
        The next round goes on where this one could not.
    """
    deleted = _purge_batches(engine, settings)
    purge_deliveries(engine)
    return deleted


def purge_deliveries(engine: Engine) -> int:
    """Delete webhooks' deliveries that are old enough, whatever the retention; gives how many."""
    until = time.monotonic() + ROUND_SECONDS
    deleted = 0
    while time.monotonic() < until:
        with transaction(engine) as session:
            count = delete_old(session, limit=DELIVERIES_PER_TRANSACTION)
        deleted += count
        if count < DELIVERIES_PER_TRANSACTION:
            break
    return deleted


def _purge_batches(engine: Engine, settings: Settings) -> Purged:
    deleted = Purged()
    if not settings.retention:
        return deleted
    began = time.monotonic()
    try:
        for done in purge(engine, older_than=timedelta(seconds=settings.retention)):
            deleted += done
            if time.monotonic() - began >= ROUND_SECONDS:
                break
    finally:
        if deleted.batches:
            log.info("purged", batches=deleted.batches, stops=deleted.stops)
    return deleted
