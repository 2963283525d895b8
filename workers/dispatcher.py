"""The dispatcher's round: whatever was lost on the way is found here again.

A failed send, a lost message, a dead worker, a retry with backoff and a confirmation that must
wait are all the same: a row that is due and was not sent lately. Several dispatchers do no harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from shared.database import transaction
from shared.exceptions import BrokerUnavailableError
from shared.failpoints import Failpoint, reach
from shared.metrics import SendReason
from shared.storage.dispatch import fail_overdue, mark_unsent, release_expired, take_due
from shared.storage.operations import end_expired
from workers.metrics import WorkerMetrics


if TYPE_CHECKING:
    from sqlalchemy import Engine

    from shared.broker import Broker
    from shared.metrics import MessageCounts
    from shared.settings import Settings

log = structlog.get_logger(__name__)

ENOUGH_WAITING = 1_000
"""Messages that may wait in the broker before no more are sent.

A stop whose message still waits is sent again after `resend_after`. Refusing the second message
takes a worker about a millisecond (`python -m bench.turn_cost`), so that a worker is through a
thousand of them long before it gets the next: workers that are too slow are not slowed down by
messages about it. Without any workers it bounds the broker's memory, to about a megabyte.
"""

ROWS_PER_STATEMENT = 1_000
"""Rows that one statement changes at most, so that no round holds locks for long."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one round did; counts of stops, but for `ended`."""

    released: int
    """Given back because their lease had run out."""
    failed: int
    """Failed because their deadline had passed."""
    ended: int = 0
    """Operations of other control planes that ended at their expiry."""
    sent: int
    """Sent to the broker."""


NOTHING = Round(released=0, failed=0, sent=0)
"""Of most rounds, of which nothing is logged."""


def run_round(
    engine: Engine, broker: Broker, settings: Settings, metrics: WorkerMetrics | None = None
) -> Round:
    """Run one round: expire leases, fail what is overdue, end operations, send what is due.

    Each step is counted once it is committed, in `metrics` if they are given.

    Raises
    ------
    DatabaseUnavailableError
        Nothing is lost: the next round does what this one could not.
    """
    metrics = metrics or WorkerMetrics()
    with transaction(engine) as session:
        released = release_expired(session, limit=ROWS_PER_STATEMENT)
    metrics.note_expired_leases(released)
    with transaction(engine) as session:
        overdue = fail_overdue(
            session, grace=timedelta(seconds=settings.resend_after), limit=ROWS_PER_STATEMENT
        )
    metrics.note_overdue(overdue)
    with transaction(engine) as session:
        ended = end_expired(session, limit=ROWS_PER_STATEMENT)
    sent = _send_due(engine, broker, settings, metrics.messages)
    metrics.note_round()
    done = Round(released=released, failed=len(overdue), ended=ended, sent=sent)
    if done != NOTHING:
        log.info(
            "dispatched",
            released=done.released,
            failed=done.failed,
            operations_ended=done.ended,
            sent=done.sent,
        )
    return done


def _send_due(engine: Engine, broker: Broker, settings: Settings, messages: MessageCounts) -> int:
    """Send what is due, if the broker is there and has not enough already; gives how many."""
    try:
        waiting = broker.count_waiting()
    except BrokerUnavailableError as error:
        log.warning("broker unavailable, stops wait", error=str(error))
        return 0
    if waiting >= ENOUGH_WAITING:
        log.warning("messages pile up: are there workers enough?", waiting=waiting)
        return 0
    with transaction(engine) as session:
        due = take_due(
            session,
            resend_after=timedelta(seconds=settings.resend_after),
            breaker_threshold=settings.breaker_threshold,
            limit=ENOUGH_WAITING - waiting,
        )
    reach(Failpoint.DISPATCHER_TAKEN)
    again = sum(stop.was_sent for stop in due)
    counts = {SendReason.DUE: len(due) - again, SendReason.AGAIN: again}
    # After the commit: a worker that is faster than the commit would find the row as it was.
    try:
        broker.send_stops(due)
    except BrokerUnavailableError as error:
        with transaction(engine) as session:
            mark_unsent(session, [stop.stop_task_id for stop in due])
        for reason, count in counts.items():
            messages.note_refused(reason, count)
        log.warning("broker unavailable, stops wait", stops=len(due), error=str(error))
        return 0
    for reason, count in counts.items():
        messages.note_sent(reason, count)
    return len(due)
