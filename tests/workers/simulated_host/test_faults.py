from __future__ import annotations

import json

import httpx
import pytest

from tests.support.simulated_host import SimulatedHost, simulated_host


def last(host: SimulatedHost, vm_id: str) -> tuple[str | None, int | None, bool]:
    entry = host.log(vm_id=vm_id)[-1]
    return entry["fault"], entry["status"], entry["killed"]


def faulty(host: SimulatedHost, kind: str, **more: object) -> str:
    return host.add_vm(stop_seconds=60, faults=[{"kind": kind, "methods": ["StopVm"], **more}])


def test_error(host: SimulatedHost) -> None:
    vm_id = faulty(host, "error", text="disk full")
    answer = host.rpc("StopVm", id=vm_id)
    assert (answer.status_code, answer.json()) == (400, {"error": "disk full"})
    assert host.status(vm_id) == "running"
    assert last(host, vm_id) == ("error", 400, False)


def test_error_although_carried_out(host: SimulatedHost) -> None:
    vm_id = faulty(host, "error", carried_out=True)
    assert host.rpc("StopVm", id=vm_id).status_code == 400
    assert host.status(vm_id) == "stopping"
    assert last(host, vm_id) == ("error", 400, True)


@pytest.mark.parametrize("status", [204, 500, 502])
def test_http(host: SimulatedHost, status: int) -> None:
    vm_id = faulty(host, "http", status=status)
    answer = host.rpc("StopVm", id=vm_id)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    assert host.status(vm_id) == "running"


@pytest.mark.parametrize(("carried_out", "status"), [(False, "running"), (True, "stopping")])
def test_hang(host: SimulatedHost, status: str, *, carried_out: bool) -> None:
    vm_id = faulty(host, "hang", carried_out=carried_out)
    with pytest.raises(httpx.ReadTimeout):
        host.rpc("StopVm", id=vm_id, timeout=0.2)
    host.wait_for(lambda: host.log(vm_id=vm_id))
    assert host.status(vm_id) == status
    assert last(host, vm_id) == ("hang", None, carried_out)
    host.wait_for(lambda: host.state()["stop_vm"]["current"] == 0)


def test_reset(host: SimulatedHost) -> None:
    vm_id = faulty(host, "reset")
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        host.rpc("StopVm", id=vm_id)
    assert host.status(vm_id) == "running"


def test_cut(host: SimulatedHost) -> None:
    vm_id = faulty(host, "cut")
    with pytest.raises(httpx.RemoteProtocolError, match="received 2 bytes, expected 5"):
        host.rpc("StopVm", id=vm_id)
    assert host.status(vm_id) == "stopping"
    assert last(host, vm_id) == ("cut", 200, True)


def test_drip(host: SimulatedHost) -> None:
    vm_id = faulty(host, "drip", interval=0.001, size=10)
    assert host.rpc("StopVm", id=vm_id).content == b"      null"
    assert host.status(vm_id) == "stopping"


def test_drip_ends_with_its_client(host: SimulatedHost) -> None:
    vm_id = faulty(host, "drip", interval=0.001, size=10_000_000)
    with host.client() as client:
        body = {"id": vm_id}
        with client.stream("POST", "/prpc/StopVm?json", json=body) as answer:
            assert next(answer.iter_raw(1)) == b" "
    host.wait_for(lambda: host.state()["stop_vm"]["current"] == 0)


def test_garbage(host: SimulatedHost) -> None:
    vm_id = faulty(host, "garbage")
    answer = host.rpc("StopVm", id=vm_id)
    assert answer.status_code == 200
    with pytest.raises(ValueError, match="decode"):
        json.loads(answer.content)
    assert host.status(vm_id) == "stopping"


def test_garbage_of_ones_own(host: SimulatedHost) -> None:
    vm_id = faulty(host, "garbage", text='{"found": true}')
    assert host.rpc("StopVm", id=vm_id).json() == {"found": True}


def test_huge(host: SimulatedHost) -> None:
    vm_id = faulty(host, "huge", size=1_000_001)
    assert len(host.rpc("StopVm", id=vm_id).content) == 1_000_001


def test_unauthorized(host: SimulatedHost) -> None:
    vm_id = faulty(host, "unauthorized")
    answer = host.rpc("StopVm", id=vm_id)
    assert (answer.status_code, answer.content) == (401, b"")
    assert host.status(vm_id) == "running"


def test_other_methods_and_vms_are_spared(host: SimulatedHost) -> None:
    vm_id = faulty(host, "error")
    assert host.rpc("GetInfo", id=vm_id).status_code == 200
    assert host.rpc("StopVm", id=host.add_vm()).status_code == 200


def test_count_runs_out(host: SimulatedHost) -> None:
    vm_id = faulty(host, "error", count=2)
    assert [host.rpc("StopVm", id=vm_id).status_code for _ in range(3)] == [400, 400, 200]


def test_faults_strike_in_order(host: SimulatedHost) -> None:
    fault = {"kind": "http", "count": 1}
    vm_id = host.add_vm(faults=[{**fault, "status": 500}, {**fault, "status": 502}])
    assert [host.rpc("GetInfo", id=vm_id).status_code for _ in range(3)] == [500, 502, 200]


def test_chances_are_repeatable() -> None:
    def statuses(seed: int) -> list[int]:
        faults = [{"kind": "http", "probability": 0.5}]
        with simulated_host(seed=seed, faults=faults) as host:
            return [host.rpc("Version").status_code for _ in range(40)]

    first = statuses(7)
    assert set(first) == {200, 502}
    assert statuses(7) == first
    assert statuses(8) != first


def test_dead_host_answers_nothing_but_the_control_endpoint() -> None:
    with simulated_host(dead=True) as host, host.client(timeout=0.2) as client:
        for path in ("/prpc/Version", "/nowhere"):
            with pytest.raises(httpx.ReadTimeout):
                client.get(path)
        host.wait_for(host.log)
        assert [entry["fault"] for entry in host.log()] == ["dead"]
        host.change(dead=False)
        assert host.rpc("Version").status_code == 200


def test_latency_comes_before_the_deed() -> None:
    with simulated_host(vms=2, latency_jitter=0.001) as host:
        slow, quick = host.vm_ids
        host.change_vm(slow, latency=60)
        with pytest.raises(httpx.ReadTimeout):
            host.rpc("StopVm", id=slow, timeout=0.1)
        host.wait_for(host.log)
        assert host.rpc("StopVm", id=quick).status_code == 200
        assert host.status(slow) == "running"
        assert host.state()["stop_vm"] == {"current": 1, "max": 2}
        asked = [(entry["vm_id"], entry["status"]) for entry in host.log()]
        assert asked == [(slow, None), (quick, 200)]


def test_request_is_carried_out_though_its_client_has_gone() -> None:
    with simulated_host(vms=1, latency=0.6) as host:
        with pytest.raises(httpx.ReadTimeout):
            host.rpc("StopVm", id=host.vm_ids[0], timeout=0.1)
        host.wait_for_status(host.vm_ids[0], "stopped")
