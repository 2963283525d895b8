"""The wire as dstack-vmm has it, and every row of the table of answers."""

from __future__ import annotations

import json
import socket

import httpx
import pytest

from tests.support.simulated_host import SimulatedHost, simulated_host
from workers.simulated_host.requests import BODY_LIMIT


UNKNOWN = "00000000-0000-0000-0000-000000000000"


def error_of(answer: httpx.Response) -> str:
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    text = answer.json()["error"]
    assert answer.text == json.dumps({"error": text}, indent=2)
    return str(text)


def test_stop_answers_null_at_once(host: SimulatedHost) -> None:
    vm_id = host.add_vm(stop_seconds=60)
    answer = host.rpc("StopVm", id=vm_id)
    assert (answer.status_code, answer.content) == (200, b"null")
    assert answer.headers["content-type"] == "application/json"
    assert host.rpc("GetInfo", id=vm_id).json()["info"]["status"] == "stopping"


def test_stopping_becomes_stopped(host: SimulatedHost) -> None:
    vm_id = host.add_vm()
    host.rpc("StopVm", id=vm_id)
    host.wait_for_status(vm_id, "stopped")
    assert host.rpc("StopVm", id=vm_id).content == b"null"


def test_stop_again_while_stopping(host: SimulatedHost) -> None:
    vm_id = host.add_vm(never_stops=True)
    host.rpc("StopVm", id=vm_id)
    expected = "Failed to stop VM: Server returned error: Missing kill tx for process"
    assert error_of(host.rpc("StopVm", id=vm_id)) == expected


def test_headers_on_every_answer(host: SimulatedHost) -> None:
    with host.client() as client:
        answers = [client.get(path) for path in ("/prpc/Version", "/prpc/Foo", "/nowhere")]
    assert [answer.status_code for answer in answers] == [200, 400, 404]
    for answer in answers:
        assert answer.headers["x-app-version"] == "v0.6.0 (312dc605)"
        assert answer.headers["x-accel-buffering"] == "no"


def test_get_mutates_too(host: SimulatedHost) -> None:
    vm_id = host.add_vm(stop_seconds=60)
    with host.client() as client:
        assert client.get(f"/prpc/StopVm?id={vm_id}").content == b"null"
    assert host.status(vm_id) == "stopping"


def test_teepod_prefix_is_stripped_and_no_other(host: SimulatedHost) -> None:
    assert host.rpc("Teepod.Version").status_code == 200
    assert error_of(host.rpc("Vmm.Version")) == "Service not found: Vmm.Version"


@pytest.mark.parametrize("path", ["/", "/prpc", "/prpc/", "/prpc/Vmm/StopVm", "/logs"])
def test_unmatched_routes(host: SimulatedHost, path: str) -> None:
    with host.client() as client:
        assert client.get(path).status_code == 404


def test_other_http_methods_match_no_route(host: SimulatedHost) -> None:
    vm_id = host.add_vm()
    with host.client() as client:
        assert client.put("/prpc/StopVm?json", json={"id": vm_id}).status_code == 404
    assert host.status(vm_id) == "running"


@pytest.mark.parametrize(
    ("query", "content_type", "is_json"),
    [
        ("?json", None, True),
        ("?json=1", None, True),
        ("?json=true", None, True),
        ("", "application/json", True),
        ("", "application/json; charset=utf-8", True),
        ("?json=0", None, False),
        ("", None, False),
        ("", "application/octet-stream", False),
    ],
)
def test_what_is_json(
    host: SimulatedHost, query: str, content_type: str | None, *, is_json: bool
) -> None:
    headers = {"accept": "text/plain"} | ({"content-type": content_type} if content_type else {})
    with host.client() as client:
        answer = client.post(f"/prpc/Version{query}", headers=headers)
    if is_json:
        assert answer.json() == {"version": "0.6.0", "rev": "312dc605"}
    else:
        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/octet-stream"
        assert b"reads JSON only" in answer.content


def test_protobuf_error_is_a_message(host: SimulatedHost) -> None:
    name = "M" * 200
    with host.client() as client:
        answer = client.post(f"/prpc/{name}")
    text = f"Service not found: {name}".encode()
    assert answer.content == b"\x0a\xdb\x01" + text
    assert len(text) == 0x5B + 0x80


def test_empty_body_is_the_default_message(host: SimulatedHost) -> None:
    with host.client() as client:
        answer = client.post("/prpc/GetInfo?json")
    assert answer.json() == {"found": False, "info": None}


def test_unknown_fields_are_ignored(host: SimulatedHost) -> None:
    assert host.rpc("GetInfo", id=UNKNOWN, more=[1]).json() == {"found": False, "info": None}


@pytest.mark.parametrize("body", ["{", "", "[]", '{"id": 5}', '{"id": null}', "\ufeff{}", "x" * 99])
def test_bad_json(host: SimulatedHost, body: str) -> None:
    with host.client() as client:
        answer = client.post("/prpc/StopVm?json", content=body.encode())
    assert error_of(answer)


def test_bad_json_wording(host: SimulatedHost) -> None:
    with host.client() as client:
        answer = client.post("/prpc/StopVm?json", content=b"nonsense")
    assert error_of(answer) == "expected ident at line 1 column 2"


def test_too_long_a_body(host: SimulatedHost) -> None:
    with host.client() as client:
        answer = client.post("/prpc/StopVm?json", content=b" " * (BODY_LIMIT + 1))
    assert "over" in error_of(answer)


def test_unknown_method(host: SimulatedHost) -> None:
    assert error_of(host.rpc("Foo")) == "Service not found: Foo"


@pytest.mark.parametrize(
    ("method", "vm_id", "beginning"),
    [
        ("StopVm", UNKNOWN, "Failed to stop VM: Failed to set started: failed to write state: "),
        ("StopVm", "", "Failed to stop VM: invalid VM id"),
        ("StopVm", "a/../b", "Failed to stop VM: invalid VM id"),
        ("StopVm", "a\n", "Failed to stop VM: invalid VM id"),
        ("StopVm", "a" * 65, "Failed to stop VM: invalid VM id"),
        ("ShutdownVm", UNKNOWN, "vm not found"),
        ("StartVm", UNKNOWN, "Failed to start VM: VM not found"),
        ("RemoveVm", UNKNOWN, "Failed to remove VM: VM not found"),
    ],
)
def test_unknown_and_illegal_ids(
    host: SimulatedHost, method: str, vm_id: str, beginning: str
) -> None:
    assert error_of(host.rpc(method, id=vm_id)).startswith(beginning)


def test_get_info_of_an_unknown_vm(host: SimulatedHost) -> None:
    assert host.rpc("GetInfo", id=UNKNOWN).text == '{"found":false,"info":null}'


def test_start_while_removing(host: SimulatedHost) -> None:
    vm_id = host.add_vm(status="removing", never_stops=True)
    assert error_of(host.rpc("StartVm", id=vm_id)) == "Failed to start VM: VM is being removed"
    assert host.rpc("GetInfo", id=vm_id).json()["info"]["status"] == "removing"


def test_version_0_5_takes_any_id_and_refuses_unlaunched_vms() -> None:
    with simulated_host(vms=0, version="0.5.11", token="t") as old:
        vm_id = old.add_vm(status="stopped", launched=False)
        answer = old.rpc("StopVm", id=vm_id)  # nor does it ask for the token
        expected = "Failed to stop VM: Server returned error: Process not found"
        assert error_of(answer) == expected
        assert "failed to write state" in error_of(old.rpc("StopVm", id="a/../b"))


def test_part_of_a_request_is_none(host: SimulatedHost) -> None:
    """A client that was killed between head and body has asked for nothing."""
    host.reset_log()
    address = httpx.URL(host.url)
    head = b"POST /prpc/StopVm?json HTTP/1.1\r\nHost: h\r\nContent-Length: 40\r\n\r\n"
    with socket.create_connection((address.host, address.port or 80)) as client:
        client.sendall(head)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    host.rpc("Version")
    assert [entry["method"] for entry in host.log()] == ["Version"]
