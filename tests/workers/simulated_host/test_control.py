from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.simulated_host import SimulatedHost, simulated_host
from workers.simulated_host.behaviour import VmSpec, generated_vms


@pytest.mark.parametrize(
    ("http_method", "path", "body", "status", "words"),
    [
        ("PATCH", "host", {"latencyx": 1}, 422, "Extra inputs are not permitted"),
        ("PATCH", "host", {"latency": -1}, 422, "greater than or equal to 0"),
        ("PATCH", "host", {"faults": [{"kind": "quake"}]}, 422, "Input should be"),
        ("PATCH", "host", [], 422, "Input should be"),
        ("PATCH", "vms/unknown", {}, 404, "no VM"),
        ("PATCH", "vms/here", {"behaviour": {"dead": True}}, 422, "Extra inputs"),
        ("PATCH", "vms/here", {"status": "absent"}, 422, "Input should be"),
        ("POST", "vms", {"id": "no/good"}, 422, "match pattern"),
        ("POST", "vms", {"id": "here"}, 409, "already"),
        ("GET", "nowhere", None, 404, "Not Found"),
    ],
)
def test_refused(http_method: str, path: str, body: object, status: int, words: str) -> None:
    with simulated_host(vms=[VmSpec(id="here")]) as host, host.client() as client:
        before = host.state() | {"uptime": None}
        answer = client.request(http_method, f"/simulator/{path}", json=body)
        assert answer.status_code == status
        assert words in answer.text
        assert host.state() | {"uptime": None} == before


def test_vm_follows_the_host_where_it_has_nothing_of_its_own() -> None:
    with simulated_host(vms=2) as host:
        own, follower = host.vm_ids
        host.change_vm(own, never_stops=False)
        host.change(never_stops=True, stop_seconds=0)
        for vm_id in host.vm_ids:
            host.rpc("StopVm", id=vm_id)
        assert (host.status(own), host.status(follower)) == ("stopped", "stopping")
        host.control("PATCH", f"vms/{own}", {"behaviour": None, "status": "running"})
        host.rpc("StopVm", id=own)
        assert host.status(own) == "stopping"
        host.change(never_stops=False)
        assert (host.status(own), host.status(follower)) == ("stopped", "stopped")


def test_all_vms_are_changed_alike() -> None:
    with simulated_host(vms=3) as host:
        host.rpc("StopVm", id=host.vm_ids[0])
        host.control("PATCH", "vms", {"status": "exited"})
        assert {host.status(vm_id) for vm_id in host.vm_ids} == {"exited"}


def test_log_tells_what_was_reported() -> None:
    with simulated_host(vms=1) as host:
        for vm_id in (*host.vm_ids, "nobody"):
            host.rpc("GetInfo", id=vm_id)
        host.rpc("Version")
        assert [entry["reported"] for entry in host.log()] == ["running", "absent", None]


def test_changes_add_up(host: SimulatedHost) -> None:
    vm_id = host.add_vm(stop_seconds=3)
    host.change_vm(vm_id, never_stops=True)
    host.control("PATCH", f"vms/{vm_id}", {"name": "new"})
    vm = host.vm(vm_id)
    assert vm is not None
    assert vm["behaviour"] == {"stop_seconds": 3, "never_stops": True}
    assert vm["name"] == "new"


def test_counts_begin_anew_with_a_change(host: SimulatedHost) -> None:
    vm_id = host.add_vm(undone_stops=1, comebacks=1)
    for _ in range(2):
        host.rpc("StopVm", id=vm_id)
        host.rpc("GetInfo", id=vm_id)
    host.change_vm(vm_id, status="running", undone_stops=1, comebacks=1)
    host.rpc("StopVm", id=vm_id)
    assert host.status(vm_id) == "running"


def test_state_counts_without_being_noticed(host: SimulatedHost) -> None:
    vm_id = host.add_vm(status="stopped", comebacks=1)
    assert [host.status(vm_id) for _ in range(3)] == ["stopped"] * 3
    running = host.add_vm(never_stops=True)
    for _ in range(2):
        host.rpc("StopVm", id=running)
    vm = host.vm(running)
    assert vm is not None
    assert (vm["stop_requests"], vm["kills"], vm["started"], vm["process"]) == (2, 1, False, True)


def test_control_asks_for_no_credentials() -> None:
    with simulated_host(auth=True) as host:
        assert len(host.state()["vms"]) == 3


def test_log_in_memory_and_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with simulated_host(vms=1, log_file=path) as host:
        vm_id = host.vm_ids[0]
        for method in ("GetInfo", "StopVm", "Nonsense"):
            host.rpc(method, id=vm_id)
        entries = host.log()
        assert [json.loads(line) for line in path.read_text().splitlines()] == entries
        assert [entry["number"] for entry in entries] == [0, 1, 2]
        assert [entry["method"] for entry in entries] == ["GetInfo", "StopVm", "Nonsense"]
        assert [entry["vm_id"] for entry in entries] == [vm_id, vm_id, None]
        assert [entry["status"] for entry in entries] == [200, 200, 400]
        assert [entry["killed"] for entry in entries] == [False, True, False]
        assert entries[2]["error"] == "Service not found: Nonsense"
        assert 0 <= entries[0]["at"] <= entries[1]["at"]
        host.reset_log()
        assert host.log() == []
        assert host.state()["stop_vm"] == {"current": 0, "max": 0}
        assert len(path.read_text().splitlines()) == 3


def test_generated_vms_are_always_the_same() -> None:
    ids = [spec.id for spec in generated_vms("vm", 2)]
    assert ids == [spec.id for spec in generated_vms("vm", 3)][:2]
    assert ids[0] == "c9d45ded-5297-5804-ac4c-c9039a48bbfe"
    assert set(ids).isdisjoint(spec.id for spec in generated_vms("other", 2))
