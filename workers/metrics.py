"""What a worker counts: turns, the stops that they ended, rounds of the dispatcher."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

from shared.metrics import MessageCounts, new_registry
from shared.models.errors import ErrorCode
from shared.models.states import AttemptOutcome, StopState
from shared.models.turns import Refusal
from shared.models.webhooks import DeliveryState


if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.models.turns import OverdueStop
    from shared.services.stops import Settled
    from workers.pool import WakingThreadPool

ENDS = (StopState.SUCCEEDED, StopState.FAILED)
"""What a stop ends in here; `canceled` is nothing that a worker does."""

TURN_ENDS = tuple(
    outcome
    for outcome in AttemptOutcome
    if outcome not in {AttemptOutcome.RUNNING, AttemptOutcome.LEASE_EXPIRED}
)
"""What a turn ends in that its own worker settles."""

STALE = "stale"
"""What a turn ended in whose claim had run out: nothing was written."""

STOP_BUCKETS = (
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    20.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
    900.0,
    1800.0,
)
"""Seconds: from a host that kills at once to twice the default of `CVMSTOP_STOP_DEADLINE`."""

TURN_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0)
"""Seconds, up to the default of `CVMSTOP_TURN_LIMIT`."""


class WorkerMetrics:
    """Counts what one worker process does, whatever its queues; processes add up."""

    def __init__(self) -> None:
        registry = self.registry = new_registry()
        self.messages = MessageCounts(registry)
        self._stops = Counter(
            "cvmstop_stops",
            "Stops that ended. `error_code` is empty for those that succeeded.",
            ["outcome", "host", "error_code"],
            registry=registry,
        )
        self._stop_duration = Histogram(
            "cvmstop_stop_duration_seconds",
            "Time from a stop's acceptance to its end.",
            ["outcome"],
            buckets=STOP_BUCKETS,
            registry=registry,
        )
        self._turn_duration = Histogram(
            "cvmstop_turn_duration_seconds",
            "Time from a message's arrival to the settled turn.",
            ["outcome"],
            buckets=TURN_BUCKETS,
            registry=registry,
        )
        self._turn_errors = Counter(
            "cvmstop_turn_errors",
            "Turns that a host, or a fault of ours, ended with an error, also those tried again.",
            ["host", "error_code"],
            registry=registry,
        )
        self._refusals = Counter(
            "cvmstop_claims_refused",
            "Messages that led to no turn.",
            ["reason"],
            registry=registry,
        )
        self._leases = Counter(
            "cvmstop_leases_expired",
            "Turns that were not settled in time: their worker died or was cut off.",
            registry=registry,
        )
        self._deliveries = Counter(
            "cvmstop_webhook_deliveries",
            "Tries to deliver an event: delivered, to be tried again (pending), given up (failed).",
            ["outcome"],
            registry=registry,
        )
        self._round = Gauge(
            "cvmstop_dispatcher_last_round_timestamp_seconds",
            "When this process ended a round of the dispatcher last; 0 if never.",
            registry=registry,
        )
        self._slots = Gauge(
            "cvmstop_worker_slots", "Tasks that this process may run at once.", registry=registry
        )
        self._busy = Gauge(
            "cvmstop_worker_busy_slots", "Tasks that this process runs now.", registry=registry
        )
        # From 0, so that the first one is an increase.
        for state in ENDS:
            self._stop_duration.labels(state)
        for outcome in (*TURN_ENDS, STALE):
            self._turn_duration.labels(outcome)
        for delivery in DeliveryState:
            self._deliveries.labels(delivery)
        for refusal in Refusal:
            self._refusals.labels(_word(refusal))

    def watch_pool(self, pool: WakingThreadPool) -> None:
        """Read the slots from the pool whenever they are asked for."""
        self._slots.set_function(lambda: float(pool.limit))
        self._busy.set_function(lambda: float(pool.running))

    def note_turn(self, host: str, settled: Settled | None, seconds: float) -> None:
        """Count a turn, and the stop if it has ended; `None` for one that came too late."""
        if settled is None:
            self._turn_duration.labels(STALE).observe(seconds)
            return
        self._turn_duration.labels(settled.outcome).observe(seconds)
        if settled.turn_error is not None:
            self._turn_errors.labels(host, settled.turn_error).inc()
        if settled.state in ENDS:
            self._note_end(settled.state, host, settled.code, settled.age)

    def note_refusal(self, refusal: Refusal) -> None:
        """Count a message that led to no turn."""
        self._refusals.labels(_word(refusal)).inc()

    def note_expired_leases(self, count: int) -> None:
        """Count stops that the dispatcher gave back."""
        self._leases.inc(count)

    def note_overdue(self, stops: Sequence[OverdueStop]) -> None:
        """Count stops that failed because nobody could look at them before their deadline."""
        for stop in stops:
            self._note_end(StopState.FAILED, stop.host, ErrorCode.DEADLINE_EXCEEDED, stop.age)

    def note_delivery(self, state: DeliveryState, count: int = 1) -> None:
        """Count tries at deliveries by what they came to."""
        self._deliveries.labels(state).inc(count)

    def note_round(self) -> None:
        """Note that a round of the dispatcher has ended, also one that found the broker away."""
        self._round.set(time.time())

    def _note_end(self, state: StopState, host: str, code: ErrorCode | None, age: float) -> None:
        self._stops.labels(state, host, code or "").inc()
        self._stop_duration.labels(state).observe(age)


def _word(refusal: Refusal) -> str:
    return refusal.name.lower()
