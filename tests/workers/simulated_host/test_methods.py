from __future__ import annotations

import httpx
import pytest

from tests.support.simulated_host import SimulatedHost, simulated_host
from workers.simulated_host.vm_info import elapsed


INFO_FIELDS = [
    *("id", "name", "status", "uptime", "app_url", "app_id", "instance_id", "configuration"),
    *("exited_at", "boot_progress", "boot_error", "shutdown_progress", "image_version"),
    *("events", "interfaces"),
]


def test_vm_info_has_every_field(host: SimulatedHost) -> None:
    vm_id = host.add_vm(name="box")
    answer = host.rpc("GetInfo", id=vm_id).json()
    info = answer["info"]
    assert answer["found"] is True
    assert list(info) == INFO_FIELDS
    assert (info["id"], info["name"], info["status"]) == (vm_id, "box", "running")
    assert (info["app_url"], info["instance_id"], info["exited_at"]) == (None, None, "never")
    assert len(info["app_id"]) == 40
    assert info["configuration"]["stopped"] is False


def test_configuration_tells_the_flag(host: SimulatedHost) -> None:
    vm_id = host.add_vm(status="stopping")
    assert host.rpc("GetInfo", id=vm_id).json()["info"]["configuration"]["stopped"] is True


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.9, "0s"), (303, "5m 3s"), (3600, "1h"), (86_400 * 2 + 1, "2days 1s"), (86_400, "1day")],
)
def test_elapsed(seconds: float, words: str) -> None:
    assert elapsed(50.0, 50.0 + seconds) == words


def test_elapsed_without_a_beginning() -> None:
    assert elapsed(None, 50.0) == "never"


def test_status_lists_finds_and_pages() -> None:
    with simulated_host(vms=5, vm_prefix="box") as host:
        answer = host.rpc("Status").json()
        assert [vm["id"] for vm in answer["vms"]] == host.vm_ids
        assert (answer["port_mapping_enabled"], answer["total"]) == (False, 5)
        assert list(answer["vms"][0]) == INFO_FIELDS
        assert answer["vms"][0]["configuration"]["name"] == "box-0"
        brief = host.rpc("Status", brief=True).json()["vms"]
        assert {vm["configuration"] for vm in brief} == {None}
        asked = host.rpc("Status", ids=[host.vm_ids[3], "unknown"]).json()
        assert ([vm["name"] for vm in asked["vms"]], asked["total"]) == (["box-3"], 1)
        found = host.rpc("Status", keyword="x-4").json()
        assert [vm["name"] for vm in found["vms"]] == ["box-4"]
        page = host.rpc("Status", page=2, page_size=2).json()
        assert ([vm["name"] for vm in page["vms"]], page["total"]) == (["box-2", "box-3"], 5)
        for everything in ({"page": 0, "page_size": 2}, {"page": 1, "page_size": 0}):
            assert len(host.rpc("Status", **everything).json()["vms"]) == 5
        assert host.rpc("Status", page=9, page_size=2).json()["vms"] == []
        assert host.rpc("Status", page=-1).status_code == 400


def test_status_by_get(host: SimulatedHost) -> None:
    first, second = host.add_vm(), host.add_vm()
    with host.client() as client:
        answer = client.get(f"/prpc/Status?ids={first}&ids={second}&brief=true&page=1&page_size=1")
    assert answer.json()["total"] == 2
    assert [vm["id"] for vm in answer.json()["vms"]] == [first]
    assert answer.json()["vms"][0]["configuration"] is None


def test_minor_methods(host: SimulatedHost) -> None:
    assert host.rpc("Version").json() == {"version": "0.6.0", "rev": "312dc605"}
    assert host.rpc("ListGpus").json() == {"gpus": [], "allow_attach_all": False}
    meta = host.rpc("GetMeta").json()
    assert set(meta) == {"kms", "gateway", "resources", "networking"}


def test_shutdown_and_start(host: SimulatedHost) -> None:
    vm_id = host.add_vm(shutdown_seconds=0)
    assert host.rpc("ShutdownVm", id=vm_id).content == b"null"
    assert host.status(vm_id) == "stopped"
    assert host.rpc("ShutdownVm", id=vm_id).status_code == 400
    assert host.rpc("StartVm", id=vm_id).content == b"null"
    assert host.status(vm_id) == "running"


def test_removed_vm_becomes_unknown(host: SimulatedHost) -> None:
    vm_id = host.add_vm()
    assert host.rpc("RemoveVm", id=vm_id).content == b"null"
    host.wait_for_status(vm_id, None)
    assert host.rpc("GetInfo", id=vm_id).json() == {"found": False, "info": None}
    assert vm_id not in [vm["id"] for vm in host.rpc("Status").json()["vms"]]
    assert host.rpc("RemoveVm", id=vm_id).status_code == 400


def test_race_1_over_the_wire(host: SimulatedHost) -> None:
    vm_id = host.add_vm(status="stopped", start_seconds=60)
    host.rpc("StartVm", id=vm_id)
    assert host.rpc("StopVm", id=vm_id).content == b"null"
    assert host.status(vm_id) == "stopped"
    host.change_vm(vm_id, start_seconds=0)
    assert host.status(vm_id) == "stopping"
    assert host.rpc("StopVm", id=vm_id).content == b"null"
    host.wait_for_status(vm_id, "stopped")
    assert [entry["killed"] for entry in host.log(method="StopVm", vm_id=vm_id)] == [False, True]


def test_race_2_over_the_wire(host: SimulatedHost) -> None:
    vm_id = host.add_vm(status="exited", undone_stops=1)
    assert host.rpc("StopVm", id=vm_id).content == b"null"
    assert host.rpc("GetInfo", id=vm_id).json()["info"]["status"] == "running"


def test_vm_that_comes_back(host: SimulatedHost) -> None:
    vm_id = host.add_vm(status="stopped", comebacks=1)
    seen = [host.rpc("GetInfo", id=vm_id).json()["info"]["status"] for _ in range(2)]
    assert seen == ["stopped", "running"]


def test_blocking_stop_answers_when_the_process_is_gone(host: SimulatedHost) -> None:
    vm_id = host.add_vm(blocking_stop_seconds=0.05, stop_seconds=0)
    assert host.rpc("StopVm", id=vm_id).content == b"null"
    assert host.rpc("GetInfo", id=vm_id).json()["info"]["status"] == "stopped"


def test_blocking_stop_is_under_way_until_it_answers() -> None:
    with simulated_host(vms=1, blocking_stop_seconds=60) as host:
        vm_id = host.vm_ids[0]
        with pytest.raises(httpx.ReadTimeout):
            host.rpc("StopVm", id=vm_id, timeout=0.1)
        host.wait_for_status(vm_id, "stopping")
        assert host.state()["stop_vm"] == {"current": 1, "max": 1}
