"""The dispatcher dies, or does not know what time it is; beat stands still."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared.failpoints import Action, Failpoint
from tests.system.faults.cluster import WORKERS
from tests.system.faults.scenario import Scenario
from tests.system.faults.strikes import struck_by


if TYPE_CHECKING:
    from tests.system.faults.cluster import Cluster

WRONG_CLOCK = "tests.system.faults.clock_that_is_wrong"


def test_killed_before_sending(cluster: Cluster) -> None:
    """What it had marked as sent, and had not sent, is sent after all."""
    for name in WORKERS:
        cluster.parts[name].freeze()
    scenario = Scenario(cluster, 20)
    scenario.accept()
    cluster.arm(Failpoint.DISPATCHER_TAKEN, Action.KILL)
    with cluster.broker() as client:
        client.flushall()
        dead = struck_by(cluster, Failpoint.DISPATCHER_TAKEN)
        client.flushall()
    for name in WORKERS:
        cluster.parts[name].thaw()
    dead.start()
    scenario.assert_all_stopped()


@pytest.mark.parametrize("hours", [1, -1])
def test_clock_is_wrong(cluster: Cluster, hours: int) -> None:
    """Leases, deadlines and due times are the database's: an hour's error changes nothing."""
    parts = [cluster.parts[name] for name in ("dispatcher", "beat", "worker-1")]
    for machine in cluster.machines.values():
        machine.behave(stop_seconds=1.5)
    try:
        for part in parts:
            part.tell_to_end()
        for part in parts:
            part.wait()
            part.run_within(WRONG_CLOCK, str(hours))
            part.start()
        for part in parts:
            part.wait_until_ready()
        scenario = Scenario(cluster, 20)
        scenario.accept()
        with cluster.broker() as client:
            client.flushall()
        scenario.assert_all_stopped()
        assert set(scenario.outcomes()) <= {"succeeded", "confirming"}
        assert any(each.worker.startswith("worker-1") for each in scenario.attempts())
    finally:
        for part in parts:
            part.tell_to_end()
            part.wait()
            part.spec = part.usual
            part.start()


def test_beat_frozen(cluster: Cluster) -> None:
    """A clock that stands still is noticed: rounds go on."""
    workers = [cluster.parts[name] for name in WORKERS]
    cluster.parts["beat"].freeze()
    for part in workers:
        part.freeze()
    scenario = Scenario(cluster, 10)
    scenario.accept()
    with cluster.broker() as client:
        client.flushall()
    for part in workers:
        part.thaw()
    scenario.assert_all_stopped()
    assert cluster.parts["beat"].is_frozen()
