"""What the API counts, and what it reads from the rows when it is scraped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from shared.database import transaction
from shared.exceptions import DatabaseUnavailableError
from shared.metrics import MessageCounts, new_registry
from shared.models.states import OPEN_STATES
from shared.storage.monitoring import (
    BREAKER_STATES,
    read_host_gauges,
    read_oldest_due_delivery,
)


if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric
    from sqlalchemy import Engine
    from starlette.types import Scope

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
"""Methods that are a label's value; a client can make up any other."""

OTHER = "other"
"""Stands for every other method, and for every path that is no route's."""

UNANSWERED = "none"
"""Status of a request that ended without an answer: its client went."""

REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds. A batch of 50 takes some hundredths; `CVMSTOP_DATABASE_TIMEOUT` ends the longest."""


class ApiMetrics:
    """Counts what one API process does.

    Parameters
    ----------
    engine
        Asked at each scrape for what the rows know.
    """

    def __init__(self, engine: Engine) -> None:
        self.registry = new_registry()
        self.messages = MessageCounts(self.registry)
        self.stops_accepted = Counter(
            "cvmstop_stops_accepted", "Stops that were accepted.", registry=self.registry
        )
        self.stops_canceled = Counter(
            "cvmstop_stops_canceled", "Stops that were canceled.", registry=self.registry
        )
        self.event_streams = Gauge(
            "cvmstop_event_streams", "Streams of events that are open.", registry=self.registry
        )
        self._requests = Histogram(
            "cvmstop_http_request_duration_seconds",
            "Time from a request's head to the end of its answer; of a stream to its beginning.",
            ["route", "method", "status"],
            buckets=REQUEST_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(RowGauges(engine))

    def note_request(self, scope: Scope, status: int | None, seconds: float) -> None:
        """Count one request, by its route's template: never by its path, which has ids."""
        method = scope["method"]
        self._requests.labels(
            getattr(scope.get("route"), "path", OTHER),
            method if method in METHODS else OTHER,
            UNANSWERED if status is None else status,
        ).observe(seconds)


class RowGauges(Collector):
    """What the rows know, read anew at each scrape: the same from every API process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def describe(self) -> list[Metric]:
        """Say nothing of names: the registry would collect to find them."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read the rows; without a database only `cvmstop_database_up` is left, and says so."""
        up = GaugeMetricFamily("cvmstop_database_up", "Whether the database answered this scrape.")
        try:
            with transaction(self._engine) as session:
                hosts = read_host_gauges(session)
                oldest_delivery = read_oldest_due_delivery(session)
        except DatabaseUnavailableError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield GaugeMetricFamily(
            "cvmstop_oldest_due_webhook_delivery_age_seconds",
            "How long the delivery is due that waits to be sent longest; 0 if none is due.",
            value=oldest_delivery,
        )
        stops = GaugeMetricFamily(
            "cvmstop_open_stops", "Stops that have not ended.", labels=["host", "state"]
        )
        oldest = GaugeMetricFamily(
            "cvmstop_oldest_due_stop_age_seconds",
            "How long the stop is due that waits for a worker longest; 0 if none is due.",
            labels=["host"],
        )
        breaker = GaugeMetricFamily(
            "cvmstop_host_breaker_state",
            "1 for the state that the host's breaker is in, 0 for the others.",
            labels=["host", "state"],
        )
        unsynced = GaugeMetricFamily(
            "cvmstop_host_sync_failing",
            "1 while the host's list of VMs could not be read, or not written down, the last time.",
            labels=["host"],
        )
        drift = GaugeMetricFamily(
            "cvmstop_drifted_cvms",
            "CVMs that run though their newest stop has succeeded.",
            labels=["host"],
        )
        for host in hosts:
            for state in OPEN_STATES:
                stops.add_metric([host.name, state], host.open_stops.get(state, 0))
            for word in BREAKER_STATES:
                breaker.add_metric([host.name, word], host.breaker == word)
            oldest.add_metric([host.name], host.oldest_due_seconds)
            unsynced.add_metric([host.name], host.is_sync_failing)
            drift.add_metric([host.name], host.drifted)
        yield from (stops, oldest, breaker, unsynced, drift)
