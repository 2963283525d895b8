"""What a worker counts: rounds and turns that end in every way. Processes: `tests/system`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.metrics import make_page
from shared.models.errors import ErrorCode
from shared.models.states import AttemptOutcome, StopState
from shared.models.turns import Refusal
from shared.services.stops import Settled
from tests.shared.conftest import Yard, yard
from tests.support.scraped import Page
from tests.workers.test_dispatcher import RecordingBroker, alter, claim
from workers.dispatcher import run_round
from workers.metrics import WorkerMetrics


__all__ = ["yard"]

SENT = "cvmstop_stop_messages_sent_total"
REFUSED = "cvmstop_stop_messages_refused_total"
ENDED = "cvmstop_stops_total"
TURNS = "cvmstop_turn_duration_seconds_count"

RETRIED = Settled(
    state=StopState.SCHEDULED,
    outcome=AttemptOutcome.RETRY,
    code=ErrorCode.HOST_TIMEOUT,
    turn_error=ErrorCode.HOST_TIMEOUT,
    age=2.0,
    wake=(),
)
GIVEN_UP = replace(
    RETRIED,
    state=StopState.FAILED,
    outcome=AttemptOutcome.FAILED,
    code=ErrorCode.DEADLINE_EXCEEDED,
    age=900.0,
)


@pytest.fixture
def metrics() -> WorkerMetrics:
    return WorkerMetrics()


def read(metrics: WorkerMetrics) -> Page:
    return Page.parse(make_page(metrics.registry).decode())


class TestRounds:
    def run(self, yard: Yard, metrics: WorkerMetrics, *, broker_is_away: bool = False) -> Page:
        broker = RecordingBroker()
        broker.is_away = broker_is_away
        run_round(yard.engine, broker, yard.settings, metrics)
        return read(metrics)

    def test_sends_and_resends(self, yard: Yard, metrics: WorkerMetrics) -> None:
        yard.accept(3)
        alter(yard, "sent_at = NULL")
        page = self.run(yard, metrics)
        assert (page.total(SENT, reason="due"), page.total(SENT, reason="again")) == (3, 0)
        alter(yard, "sent_at = sent_at - interval '1 minute'")
        page = self.run(yard, metrics)
        assert (page.total(SENT, reason="due"), page.total(SENT, reason="again")) == (3, 3)
        assert page.total("cvmstop_dispatcher_last_round_timestamp_seconds") > 0

    def test_what_the_broker_does_not_take(self, yard: Yard, metrics: WorkerMetrics) -> None:
        yard.accept(2)
        alter(yard, "sent_at = sent_at - interval '1 minute'")
        page = self.run(yard, metrics, broker_is_away=True)
        assert page.total(SENT) == 0
        assert page.total(REFUSED, reason="again") == 2
        assert page.total("cvmstop_dispatcher_last_round_timestamp_seconds") > 0

    def test_deadlines(self, yard: Yard, metrics: WorkerMetrics) -> None:
        yard.accept(2, host="silent")
        alter(
            yard,
            "accepted_at = now() - interval '1000 s', deadline_at = now() - interval '100 s'",
        )
        page = self.run(yard, metrics)
        ended = {"outcome": "failed", "host": "silent", "error_code": "deadline_exceeded"}
        assert page.total(ENDED, **ended) == page.total(ENDED) == 2
        duration = "cvmstop_stop_duration_seconds"
        assert page.total(f"{duration}_count", outcome="failed") == 2
        assert 2_000 <= page.total(f"{duration}_sum", outcome="failed") < 4_000

    def test_leases(self, yard: Yard, metrics: WorkerMetrics) -> None:
        (task,) = yard.accept()
        claim(yard, task)
        alter(yard, "lease_expires_at = now() - interval '1 second'")
        assert self.run(yard, metrics).total("cvmstop_leases_expired_total") == 1


class TestTurns:
    def test_one_that_is_tried_again_ends_no_stop(self, metrics: WorkerMetrics) -> None:
        metrics.note_turn("node-1", RETRIED, 0.2)
        page = read(metrics)
        assert page.total(TURNS, outcome="retry") == 1
        labels = {"host": "node-1", "error_code": "host_timeout"}
        assert page.total("cvmstop_turn_errors_total", **labels) == 1
        assert page.total(ENDED) == 0

    def test_a_stop_fails_for_its_own_reason(self, metrics: WorkerMetrics) -> None:
        metrics.note_turn("node-1", GIVEN_UP, 0.2)
        page = read(metrics)
        assert page.total("cvmstop_turn_errors_total", error_code="host_timeout") == 1
        assert page.total(ENDED, error_code="deadline_exceeded") == page.total(ENDED) == 1

    def test_one_that_came_too_late(self, metrics: WorkerMetrics) -> None:
        metrics.note_turn("node-1", None, 80.0)
        page = read(metrics)
        assert page.total(TURNS, outcome="stale") == page.total(TURNS) == 1
        assert page.total(ENDED) == 0

    @pytest.mark.parametrize("refusal", Refusal)
    def test_messages_without_a_turn(self, metrics: WorkerMetrics, refusal: Refusal) -> None:
        metrics.note_refusal(refusal)
        page = read(metrics)
        assert page.total("cvmstop_claims_refused_total", reason=refusal.name.lower()) == 1
        assert page.total("cvmstop_claims_refused_total") == 1


def test_what_can_be_an_increase_begins_at_zero(metrics: WorkerMetrics) -> None:
    """`increase()` sees nothing of a series that begins with its first event."""
    names = {name for name, _ in read(metrics).series()}
    assert names >= {SENT, REFUSED, TURNS, "cvmstop_leases_expired_total"}
    assert {"cvmstop_claims_refused_total", "cvmstop_stop_duration_seconds_count"} <= names
