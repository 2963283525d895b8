"""Workers are replaced, one after the other, while batches run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.system.faults.cluster import WORKERS
from tests.system.faults.machines import CAP
from tests.system.faults.scenario import Scenario


if TYPE_CHECKING:
    from tests.system.faults.cluster import Cluster

TURNS = 200
"""Turns that are under way when the worker is told to end: all of its slots."""


def test_worker_told_to_end_in_the_middle_of_200_turns(cluster: Cluster) -> None:
    """It finishes each of them, takes no new one, and ends well; the other does the rest."""
    leaving, staying = (cluster.parts[name] for name in WORKERS)
    for machine in cluster.machines.values():
        machine.behave(stop_seconds=3, latency=0.05)
    with cluster.connect() as connection:
        connection.execute("UPDATE vm_hosts SET max_concurrent_stops = %s", [TURNS // 5])
    try:
        staying.freeze()
        scenario = Scenario(cluster, TURNS + 20)
        scenario.accept()
        scenario.wait_until_some("stopping", TURNS)
        leaving.tell_to_end()
        staying.thaw()
        assert leaving.wait() == 0
        turns = scenario.attempts()
        taken = [each for each in turns if each.worker.startswith(leaving.name)]
        assert len(taken) >= TURNS
        assert not [each for each in taken if each.outcome in {"running", "lease_expired"}]
        scenario.assert_all_stopped()
        assert "lease_expired" not in scenario.outcomes()
    finally:
        with cluster.connect() as connection:
            connection.execute("UPDATE vm_hosts SET max_concurrent_stops = %s", [CAP])
