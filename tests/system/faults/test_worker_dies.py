"""A worker dies between two steps, or stands still until its lease has run out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared.failpoints import Action, Failpoint
from tests.support.waiting import eventually
from tests.system.faults.scenario import Scenario
from tests.system.faults.strikes import struck_by


if TYPE_CHECKING:
    from tests.system.faults.cluster import Cluster
    from tests.system.faults.part import Part


@pytest.mark.parametrize(
    "place",
    [
        Failpoint.WORKER_RECEIVED,
        Failpoint.WORKER_CLAIMED,
        Failpoint.WORKER_FORCE_STOPPED,
        Failpoint.WORKER_TURN_TAKEN,
        Failpoint.WORKER_SETTLED,
    ],
)
def test_killed(cluster: Cluster, place: Failpoint) -> None:
    """The other worker carries on alone; nobody starts the dead one again."""
    cluster.arm(place, Action.KILL)
    # A message that is lost is the only one: otherwise another stop's end would wake its host's.
    scenario = Scenario(cluster, 1 if place is Failpoint.WORKER_RECEIVED else 20)
    scenario.accept()
    dead = struck_by(cluster, place)
    scenario.assert_all_stopped()
    assert not dead.runs
    others = scenario.attempts()
    if place in {Failpoint.WORKER_RECEIVED, Failpoint.WORKER_SETTLED}:
        return  # what it had claimed then it had in other threads, by chance
    lapsed = [each for each in others if each.outcome == "lease_expired"]
    assert {each.worker.partition("@")[0] for each in lapsed} == {dead.name}


def test_killed_after_the_force_stop_asks_the_host_first(cluster: Cluster) -> None:
    """The next turn sees that the VM is down, and sends no second force stop."""
    cluster.arm(Failpoint.WORKER_FORCE_STOPPED, Action.KILL)
    scenario = Scenario(cluster, 1)
    scenario.accept()
    struck_by(cluster, Failpoint.WORKER_FORCE_STOPPED)
    scenario.assert_all_stopped()
    assert [each.outcome for each in scenario.attempts()] == ["lease_expired", "succeeded"]
    assert list(scenario.asked().values()) == [1]


@pytest.mark.parametrize("place", [Failpoint.WORKER_CLAIMED, Failpoint.WORKER_TURN_TAKEN])
def test_frozen_past_its_lease(cluster: Cluster, place: Failpoint) -> None:
    """Let go again, it changes nothing and sends no force stop: another one has had the stop (I4).

    The VM runs again by then, so that a late force stop would show.
    """
    cluster.arm(place, Action.FREEZE)
    scenario = Scenario(cluster, 1)
    scenario.accept()
    frozen = struck_by(cluster, place)
    scenario.wait_until_ended()
    ended, turns, asked = scenario.rows(), scenario.attempts(), scenario.asked()
    assert [each.outcome for each in turns] == ["lease_expired", "succeeded"]
    assert turns[0].worker.startswith(frozen.name)
    assert not turns[1].worker.startswith(frozen.name)
    for machine in cluster.machines.values():
        machine.start_vms()
    over = _turns_over(frozen)
    frozen.thaw()
    eventually(lambda: _turns_over(frozen) > over)
    assert scenario.rows() == ended
    assert scenario.attempts() == turns
    assert scenario.asked() == asked


def test_frozen_turn_is_not_settled_over_a_new_claim(cluster: Cluster) -> None:
    """The stop is being worked on by the other one when the late worker comes back."""
    cluster.arm(Failpoint.WORKER_TURN_TAKEN, Action.FREEZE)
    scenario = Scenario(cluster, 1, "host-1")
    scenario.accept()
    frozen = struck_by(cluster, Failpoint.WORKER_TURN_TAKEN)
    # The next turn stays under way: its question is not answered.
    cluster.machines["host-1"].behave(dead=True)
    eventually(lambda: len(scenario.attempts()) == 2)
    [row] = scenario.rows()
    over = _turns_over(frozen)
    frozen.thaw()
    eventually(lambda: _turns_over(frozen) > over)
    outcomes = [each.outcome for each in scenario.attempts()]
    assert outcomes[0] == "lease_expired"
    assert scenario.rows()[0]["attempt"] >= row["attempt"]
    assert scenario.rows()[0]["state"] != "succeeded"
    cluster.machines["host-1"].behave(dead=False)
    scenario.assert_all_stopped()


def _turns_over(part: Part) -> int:
    """Count the turns that a worker has ended, in time or too late, by its log."""
    return part.log().count("turn ended") + part.log().count("turn came too late")
