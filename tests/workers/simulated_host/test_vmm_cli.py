"""The requests of dstack's own `vmm-cli.py`, header for header, and what it needs of answers."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

import pytest

from tests.support.simulated_host import SimulatedHost


def ask(host: SimulatedHost, method: str, body: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(host.url).netloc, timeout=10)
    try:
        connection.request(
            "POST", f"/prpc/{method}?json", body, {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_lsvm(host: SimulatedHost) -> None:
    vm_id = host.add_vm()
    status, body = ask(host, "Status", "{}")
    assert status == 200
    vm = next(vm for vm in json.loads(body)["vms"] if vm["id"] == vm_id)
    assert {"id", "name", "status", "app_id"} <= set(vm)


def test_info(host: SimulatedHost) -> None:
    status, body = ask(host, "GetInfo", json.dumps({"id": host.add_vm()}))
    assert status == 200
    answer = json.loads(body)
    assert answer["found"] is True
    assert isinstance(answer["info"]["configuration"], dict)  # null would crash `info`


@pytest.mark.parametrize(
    ("method", "before", "after"),
    [
        ("ShutdownVm", "running", "stopping"),
        ("StopVm", "running", "stopping"),
        ("StartVm", "stopped", "running"),
        ("RemoveVm", "running", "removing"),
    ],
)
def test_stop_start_remove(host: SimulatedHost, method: str, before: str, after: str) -> None:
    vm_id = host.add_vm(status=before, stop_seconds=60, shutdown_seconds=60)
    assert ask(host, method, json.dumps({"id": vm_id})) == (200, "null")
    assert host.status(vm_id) == after
