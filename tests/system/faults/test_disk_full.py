"""The disk of PostgreSQL or of the broker is full.

Deselected, and said so at the end, where the machine lets nobody mount a file system.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import eventually
from tests.system.faults.cluster import WORKERS
from tests.system.faults.scenario import Scenario


if TYPE_CHECKING:
    from tests.system.faults.cluster import Cluster

CONSUMERS = (*WORKERS, "dispatcher", "beat")

pytestmark = pytest.mark.small_disk


def test_of_postgresql(cluster: Cluster) -> None:
    """Nothing is accepted that cannot be written down; what was accepted is carried out."""
    accepted = Scenario(cluster, 10, "host-1")
    others = Scenario(cluster, len(cluster.records) // 3, "host-2", "host-3", "host-4")
    for machine in cluster.machines.values():
        machine.behave(stop_seconds=1)
    accepted.accept()
    cluster.database_disk.fill()
    try:
        answer = others.ask()  # some are accepted: there is room in files that PostgreSQL has
        assert answer.status_code == 503, answer.text
        assert "Retry-After" in answer.headers
    finally:
        cluster.database_disk.empty()
    eventually(cluster.parts["postgresql"].spec.is_ready, timeout=60)
    accepted.assert_all_stopped()
    if others.batches:
        others.assert_accepted_stopped()


def test_of_the_broker(cluster: Cluster) -> None:
    """Requests are accepted all the same, and carried out once there is room again.

    What the broker answers meanwhile ends no consumer.
    """
    pids = {name: cluster.parts[name].pid for name in CONSUMERS}
    before = {name: _refusals(cluster, name) for name in WORKERS}
    cluster.broker_disk.fill()
    try:
        # Two batches: the messages of the first may be what fills the disk, and are taken.
        scenario = Scenario(cluster, 100)
        scenario.accept()
        eventually(lambda: all(_refusals(cluster, name) > before[name] for name in WORKERS))
    finally:
        cluster.mend_broker_disk()
    scenario.assert_all_stopped()
    assert {name: cluster.parts[name].pid for name in CONSUMERS} == pids


def _refusals(cluster: Cluster, name: str) -> int:
    """Count how often a worker has logged what Valkey answers when it cannot write."""
    return cluster.parts[name].log().count("MISCONF")
