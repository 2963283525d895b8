"""PostgreSQL dies, hangs, or has no connection left: a clear no, and on it goes."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.support.waiting import eventually
from tests.system.faults.scenario import Scenario


if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.faults.cluster import Cluster

CONSUMERS = ("api", "worker-1", "worker-2", "dispatcher", "beat")

ANSWER_BOUND = 14.0
"""Seconds within which a request is refused.

A connection of the pool is tried (`CVMSTOP_DATABASE_TIMEOUT` and 1), then a new one opened (the
same time-out), then what authenticates waits no longer; tripled for a busy machine.
"""


def _killed(cluster: Cluster) -> Callable[[], None]:
    cluster.parts["postgresql"].kill()
    return cluster.start_postgresql


def _frozen(cluster: Cluster) -> Callable[[], None]:
    part = cluster.parts["postgresql"]
    part.freeze()
    return part.thaw


def _out_of_connections(cluster: Cluster) -> Callable[[], None]:
    stack = ExitStack()
    connection = stack.enter_context(cluster.connect())
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )

    def none_is_left() -> bool:
        with suppress(psycopg.OperationalError):
            while True:
                stack.enter_context(cluster.connect())
        with cluster.api() as client:
            return client.get("/health/ready").status_code == 503

    eventually(none_is_left)
    return stack.close


def _swallowed(cluster: Cluster) -> Callable[[], None]:
    cluster.database_proxy.swallow()
    return cluster.database_proxy.well


STRIKES = [_killed, _frozen, _out_of_connections, _swallowed]


@pytest.mark.parametrize("strike", STRIKES)
def test_refuses_meanwhile(
    cluster: Cluster, strike: Callable[[Cluster], Callable[[], None]]
) -> None:
    """503 with `Retry-After`, no trace of the request; the same request is accepted afterwards."""
    scenario = Scenario(cluster, 10)
    mend = strike(cluster)
    try:
        answer = scenario.ask(timeout=ANSWER_BOUND)
        assert answer.status_code == 503, answer.text
        assert answer.json()["error"] == "database_unavailable"
        assert int(answer.headers["Retry-After"]) >= 1
    finally:
        mend()
    [(written,)] = cluster.query(
        "SELECT count(*) FROM stop_batches WHERE idempotency_key LIKE %s", [f"{scenario.key}%"]
    )
    assert written == 0
    eventually(lambda: scenario.ask().status_code == 200)
    scenario.assert_all_stopped()


@pytest.mark.parametrize("strike", STRIKES)
def test_turns_under_way_are_settled_afterwards(
    cluster: Cluster, strike: Callable[[Cluster], Callable[[], None]]
) -> None:
    """What hosts said meanwhile is written down when the database is back: no lease runs out."""
    for machine in cluster.machines.values():
        machine.behave(stop_seconds=1.5)
    pids = {name: cluster.parts[name].pid for name in CONSUMERS}
    scenario = Scenario(cluster, 12)
    scenario.accept()
    scenario.wait_until("stopping", "confirming", "succeeded")
    mend = strike(cluster)
    try:
        # The VMs are told to stop meanwhile, and the turns end.
        eventually(lambda: len(scenario.asked()) == len(scenario.cvms))
        eventually(lambda: _nobody_asks(scenario))
    finally:
        mend()
    scenario.assert_all_stopped()
    assert "lease_expired" not in scenario.outcomes()
    assert {name: cluster.parts[name].pid for name in CONSUMERS} == pids


def _nobody_asks(scenario: Scenario) -> bool:
    """Whether hosts were asked nothing for three intervals between two looks of a turn."""
    before = scenario.asked("GetInfo")
    time.sleep(3 * scenario.cluster.settings().look_interval)
    return scenario.asked("GetInfo") == before
