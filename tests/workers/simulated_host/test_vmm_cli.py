"""The requests of dstack's own `vmm-cli.py`, header for header, and what it needs of answers.

Each command sends one request, by Python's `http.client`, over TCP or the Unix socket:
`POST /prpc/<Method>?json`, with `Authorization` if it was given a token (Bearer) or a user and a
password (Basic). Of an answer it wants the status 200 and no other, and JSON in it: it takes a body
for JSON by its Content-Type, or when it begins with a brace. Source: `vmm/src/vmm-cli.py`.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.simulated_host import SimulatedHost, simulated_host


TOKEN = "t0ken"

USER, PASSWORD = "ann", "pass:wörd"

JSON = "application/json"


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


AUTHORIZATIONS = {
    "--token": f"Bearer {TOKEN}",
    "--auth-user and the token": basic("anybody", TOKEN),
    "--auth-user and --auth-password": basic(USER, PASSWORD),
}
"""How the client can be told to show who it is; DSTACK_VMM_… variables do the same."""


@dataclass(frozen=True)
class Client:
    """Sends what the client sends, to one host."""

    host: SimulatedHost
    authorization: str | None

    def ask(self, method: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Give the status, and the body as the client reads it."""
        status, content_type, data = self.ask_plainly(method, json.dumps(body))
        if JSON in content_type or data[:1] in {b"{", b"["}:
            return status, json.loads(data)
        return status, data.decode()

    def ask_plainly(self, method: str, body: str) -> tuple[int, str, bytes]:
        headers = {"Content-Type": JSON}
        if self.authorization is not None:
            headers["Authorization"] = self.authorization
        with closing(self._connection()) as connection:
            connection.request("POST", f"/prpc/{method}?json", body.encode(), headers)
            answer = connection.getresponse()
            return answer.status, answer.getheader("Content-Type", ""), answer.read()

    def _connection(self) -> http.client.HTTPConnection:
        if not self.host.url.startswith("unix:"):
            return http.client.HTTPConnection(urlsplit(self.host.url).netloc, timeout=10)
        connection = http.client.HTTPConnection("localhost", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
        connection.sock.connect(self.host.url.removeprefix("unix:"))
        return connection


@pytest.fixture(scope="module")
def hosts() -> Iterator[dict[tuple[str, bool], SimulatedHost]]:
    """Hosts by how they listen, and whether they ask for credentials."""
    guards: dict[str, Any] = {"token": TOKEN, "user": USER, "password": PASSWORD}
    with ExitStack() as stack:
        yield {
            (listens, guarded): stack.enter_context(
                simulated_host(vms=0, unix=listens == "unix", **(guards if guarded else {}))
            )
            for listens in ("tcp", "unix")
            for guarded in (False, True)
        }


@pytest.fixture(params=["tcp", "unix"])
def listens(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(params=["without a token", *AUTHORIZATIONS])
def client(
    hosts: dict[tuple[str, bool], SimulatedHost], listens: str, request: pytest.FixtureRequest
) -> Client:
    authorization = AUTHORIZATIONS.get(request.param)
    return Client(hosts[listens, authorization is not None], authorization)


def test_lsvm(client: Client) -> None:
    """`lsvm`, and `-v`, which looks into the configuration: null would end it with a traceback."""
    vm_id = client.host.add_vm(name="web")
    status, answer = client.ask("Status", {})
    assert status == 200
    vm = next(vm for vm in answer["vms"] if vm["id"] == vm_id)
    assert (vm["name"], vm["status"]) == ("web", "running")
    assert vm["app_id"]
    assert isinstance(vm["uptime"], str)
    assert {"vcpu", "memory", "disk_size", "image", "gpus"} <= set(vm["configuration"])


def test_info(client: Client) -> None:
    status, answer = client.ask("GetInfo", {"id": client.host.add_vm(name="web")})
    assert status == 200
    assert answer["found"] is True
    assert (answer["info"]["name"], answer["info"]["status"]) == ("web", "running")
    shown = {"id", "uptime", "app_id", "instance_id", "app_url", "image_version", "boot_progress"}
    assert shown <= set(answer["info"])
    assert isinstance(answer["info"]["events"], list)
    configuration = answer["info"]["configuration"]  # null would crash `info`
    assert {"image", "vcpu", "memory", "disk_size"} <= set(configuration)
    assert configuration["gpus"] is None or isinstance(configuration["gpus"], dict)


def test_info_of_none(client: Client) -> None:
    """The client says `not found`, and ends with 0."""
    status, answer = client.ask("GetInfo", {"id": "nowhere"})
    assert status == 200
    assert answer == {"found": False, "info": None}


COMMANDS = {
    "stop": ("ShutdownVm", "running", "stopping"),
    "stop -f": ("StopVm", "running", "stopping"),
    "start": ("StartVm", "stopped", "running"),
    "remove": ("RemoveVm", "running", "removing"),
}
"""By what is typed: the method, and the VM's status before and after."""


@pytest.mark.parametrize("command", COMMANDS)
def test_stop_start_remove(client: Client, command: str) -> None:
    method, before, after = COMMANDS[command]
    vm_id = client.host.add_vm(status=before, stop_seconds=60, shutdown_seconds=60)
    assert client.ask(method, {"id": vm_id}) == (200, None)
    assert client.host.status(vm_id) == after
    (entry,) = client.host.log(method=method, vm_id=vm_id)
    assert entry["credentials_ok"] is True


def test_a_refusal_says_why(client: Client) -> None:
    """The client shows what the body says, and ends with 1."""
    vm_id = client.host.add_vm(stop_seconds=60)
    client.ask("StopVm", {"id": vm_id})
    status, answer = client.ask("StopVm", {"id": vm_id})
    assert status == 400
    assert "Missing kill tx for process" in answer["error"]


@pytest.mark.parametrize(
    "authorization",
    [None, "Bearer other", basic("anybody", "other"), basic(USER, "other"), basic(TOKEN, "x")],
)
@pytest.mark.parametrize("method", ["Status", "GetInfo", "StartVm", "StopVm", "RemoveVm"])
def test_wrong_credentials(
    hosts: dict[tuple[str, bool], SimulatedHost],
    listens: str,
    method: str,
    authorization: str | None,
) -> None:
    """401 with nothing in it, and nothing done; over the Unix socket too."""
    host = hosts[listens, True]
    vm_id = host.add_vm()
    client = Client(host, authorization)
    status, _, data = client.ask_plainly(method, json.dumps({"id": vm_id}))
    assert (status, data) == (401, b"")
    assert host.status(vm_id) == "running"


@pytest.mark.parametrize("authorization", AUTHORIZATIONS.values(), ids=AUTHORIZATIONS)
def test_credentials_that_nobody_asked_for(
    hosts: dict[tuple[str, bool], SimulatedHost], listens: str, authorization: str
) -> None:
    """As a client that always sends its token meets a host without authentication."""
    host = hosts[listens, False]
    assert Client(host, authorization).ask("StopVm", {"id": host.add_vm()}) == (200, None)
