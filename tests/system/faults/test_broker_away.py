"""The broker dies, hangs, is full, cuts everybody off, or says what it has said before.

`test_recovery.py` has what workers do then; this is what requests meet, and two special cases.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from shared.broker import STOPS_QUEUE
from tests.support.waiting import eventually
from tests.system.faults import faults
from tests.system.faults.cluster import WORKERS
from tests.system.faults.scenario import Scenario


if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.system.faults.cluster import Cluster

CONSUMERS = (*WORKERS, "dispatcher", "beat")

ANSWER_BOUND = 2.0
"""Seconds within which a batch is accepted with the broker away: the design says about one."""


@pytest.fixture
def chance(seed: int) -> random.Random:
    from random import Random  # noqa: PLC0415 - the name would hide the type's

    return Random(seed)  # noqa: S311 - chooses whom to strike


def _frozen(cluster: Cluster) -> Callable[[], None]:
    part = cluster.parts["valkey"]
    part.freeze()
    return part.thaw


def _killed(cluster: Cluster) -> Callable[[], None]:
    part = cluster.parts["valkey"]
    part.kill()
    return part.start


def _swallowed(cluster: Cluster) -> Callable[[], None]:
    cluster.broker_proxy.swallow()
    return cluster.broker_proxy.well


def _full(cluster: Cluster) -> Callable[[], None]:
    with cluster.broker() as client:
        client.config_set("maxmemory", 1)

    def mend() -> None:
        with cluster.broker() as client:
            client.config_set("maxmemory", 0)

    return mend


@pytest.mark.parametrize("strike", [_frozen, _killed, _swallowed, _full])
def test_accepts_meanwhile(
    cluster: Cluster, strike: Callable[[Cluster], Callable[[], None]]
) -> None:
    """A batch is accepted in time (I7), and carried out once the broker is back."""
    scenario = Scenario(cluster, 20)
    mend = strike(cluster)
    try:
        began = time.monotonic()
        answer = scenario.ask(timeout=ANSWER_BOUND)
        seconds = time.monotonic() - began
        assert answer.status_code == 200
        assert seconds < ANSWER_BOUND
        with cluster.api() as client:
            assert client.get("/health/ready").json()["status"] == "degraded"
        assert {row["state"] for row in scenario.rows()} == {"scheduled"}
    finally:
        mend()
    scenario.assert_all_stopped()


@pytest.mark.parametrize("fault", ["broker restarted empty", "broker flushed"])
def test_messages_are_lost(cluster: Cluster, chance: random.Random, fault: str) -> None:
    """Every message of the stops is lost before a worker could take it."""
    workers = [cluster.parts[name] for name in WORKERS]
    for part in workers:
        part.freeze()
    scenario = Scenario(cluster, 10)
    scenario.accept()
    faults.BROKER_FAULTS[fault](cluster, chance)
    for part in workers:
        part.thaw()
    scenario.assert_all_stopped()


def test_messages_come_many_times(cluster: Cluster) -> None:
    """Each stop is claimed once, although its message comes six times while its turn lasts."""
    for machine in cluster.machines.values():
        machine.behave(blocking_stop_seconds=2)
    scenario = Scenario(cluster, 10)
    scenario.accept()
    scenario.wait_until("stopping", "succeeded")  # on a busy machine the first may have ended
    cluster.send_again([row["id"] for row in scenario.rows()] * 5)
    with cluster.broker() as client:
        eventually(lambda: client.llen(STOPS_QUEUE) == 0)
    scenario.assert_all_stopped()
    assert scenario.outcomes() == {"succeeded": 10}
    assert set(scenario.asked().values()) == {1}


def test_messages_return_from_the_dead(cluster: Cluster) -> None:
    """Messages of stops that have ended change nothing: no new turn, no question to a host."""
    scenario = Scenario(cluster, 20)
    scenario.accept()
    scenario.assert_all_stopped()
    ended, turns, asked = scenario.rows(), scenario.attempts(), scenario.asked("GetInfo")
    for machine in cluster.machines.values():
        machine.start_vms()
    cluster.send_again([row["id"] for row in ended] * 3)
    with cluster.broker() as client:
        eventually(lambda: client.llen(STOPS_QUEUE) == 0)
    afterwards = Scenario(cluster, 20)  # the same CVMs, which run again
    afterwards.accept()
    afterwards.assert_all_stopped()
    assert scenario.rows() == ended
    assert scenario.attempts() == turns
    assert scenario.asked("GetInfo") - asked == afterwards.asked("GetInfo")


def test_connections_cut_over_and_over(cluster: Cluster, chance: random.Random) -> None:
    """Cut while messages come in as fast as they can: no consumer breaks."""
    pids = {name: cluster.parts[name].pid for name in CONSUMERS}
    scenario = Scenario(cluster, 50)
    scenario.accept()
    ids = [row["id"] for row in scenario.rows()]

    def workers_wait_for_messages() -> bool:
        with cluster.broker() as client:
            waiting = [each for each in client.client_list() if each["cmd"] == "brpop"]
        return len(waiting) >= 3

    def messages_come_in() -> bool:
        with cluster.broker() as client:
            return int(str(client.llen(STOPS_QUEUE))) < len(ids) * 40 - 200

    for _ in range(30):  # each has a chance of some in a hundred to hit the moment
        cluster.send_again(ids * 40)  # more than can be taken before the cut
        eventually(messages_come_in)
        faults.BROKER_FAULTS["broker connections cut"](cluster, chance)
        eventually(workers_wait_for_messages)
        with cluster.broker() as client:
            client.delete(STOPS_QUEUE)  # more than a thousand are left
    scenario.assert_all_stopped()
    assert {name: cluster.parts[name].pid for name in CONSUMERS} == pids
    assert not [name for name in CONSUMERS if cluster.parts[name].own_ends]
