"""VM hosts that refuse, hang, lie, or bring a machine back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import eventually
from tests.system.faults.machines import WELL
from tests.system.faults.scenario import Scenario


if TYPE_CHECKING:
    from tests.system.faults.cluster import Cluster

BEHAVIOURS: dict[str, dict[str, Any]] = {
    "black hole": {"dead": True},
    "hangs after a force stop": {
        "faults": [{"kind": "hang", "methods": ["StopVm"], "carried_out": True}]
    },
    "hangs instead of a force stop": {
        "faults": [{"kind": "hang", "methods": ["StopVm"], "carried_out": False}]
    },
    "cut in mid-answer": {"faults": [{"kind": "cut"}]},
    "500": {"faults": [{"kind": "http", "status": 500}]},
    "garbage": {"faults": [{"kind": "garbage"}]},
    "drips": {"faults": [{"kind": "drip", "interval": 0.5}]},
    "stopping for ever": {"never_stops": True},
}


@pytest.mark.parametrize("behaviour", BEHAVIOURS.values(), ids=BEHAVIOURS.keys())
def test_nothing_succeeds_before_the_host_says_so(
    cluster: Cluster, behaviour: dict[str, Any]
) -> None:
    """While the host is unwell no stop of it succeeds unseen; once it is well all do."""
    host = cluster.machines["host-1"]
    scenario = Scenario(cluster, 12, "host-1")
    host.behave(**behaviour)
    scenario.accept()
    eventually(lambda: len(scenario.attempts()) >= 4 and len(scenario.outcomes()) > 0)
    eventually(lambda: sum(n for o, n in scenario.outcomes().items() if o != "running") >= 3)
    down = {vm["id"] for vm in host.state()["vms"] if vm["status"] == "stopped"}
    done = {row["vm_uuid"] for row in scenario.rows() if row["state"] == "succeeded"}
    assert done <= down
    assert "failed" not in {row["state"] for row in scenario.rows()}
    host.behave(**WELL)
    scenario.assert_all_stopped()
    # Each turn had an end of its own, before its lease.
    assert "lease_expired" not in scenario.outcomes()
    assert host.state()["stop_vm"]["max"] <= 16


def test_refused(cluster: Cluster) -> None:
    host = cluster.machines["host-2"]
    scenario = Scenario(cluster, 12, "host-2")
    host.part.kill()
    scenario.accept()
    eventually(lambda: scenario.outcomes()["retry"] >= 3)
    assert {each.error_code for each in scenario.attempts() if each.outcome == "retry"} == {
        "host_unreachable"
    }
    host.part.start()
    scenario.assert_all_stopped()


def test_certificate_expired(cluster: Cluster) -> None:
    """It is not talked to, whatever it says; the attempts tell why."""
    part = cluster.machines["host-tls"].part
    part.kill()
    cluster.certificates.expire()
    part.start()
    part.wait_until_ready()
    try:
        scenario = Scenario(cluster, 6, "host-tls")
        scenario.accept()
        eventually(lambda: scenario.outcomes()["retry"] >= 3)
        [message] = {row["error_message"] for row in scenario.rows() if row["error_message"]}
        assert "certificate has expired" in message
        assert not scenario.asked("GetInfo")
    finally:
        part.kill()
        cluster.certificates.renew()
        part.start()
        part.wait_until_ready()
    scenario.assert_all_stopped()


@pytest.mark.parametrize("undone_after", [0.0, 0.1])
def test_machine_comes_back_after_the_force_stop(cluster: Cluster, undone_after: float) -> None:
    """The host says yes, and starts the VM again: it is force stopped again until it is down."""
    host = cluster.machines["host-3"]
    scenario = Scenario(cluster, 6, "host-3")
    host.behave(undone_stops=2, undone_after=undone_after, stop_seconds=0.2)
    scenario.accept()
    scenario.assert_all_stopped()
    assert min(scenario.asked().values()) == 3


def test_black_hole_opens_again(cluster: Cluster) -> None:
    """The network to a host swallows everything; what waited drains by itself."""
    scenario = Scenario(cluster, 20, "host-proxied")
    cluster.host_proxy.swallow()
    scenario.accept()
    eventually(lambda: scenario.outcomes()["retry"] >= 3)
    others = Scenario(cluster, 20, "host-1", "host-2")
    others.accept()
    others.assert_all_stopped()
    cluster.host_proxy.well()
    scenario.assert_all_stopped()
