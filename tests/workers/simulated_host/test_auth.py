from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from tests.support.simulated_host import SimulatedHost, simulated_host
from workers.simulated_host.auth import Credentials


@pytest.fixture(scope="module")
def guarded() -> Iterator[SimulatedHost]:
    with simulated_host(token="t0ken", user="ann", password="pä:ss") as host:
        yield host


def basic(user: str, password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"x-admin-token": "t0ken"}, True),
        ({"authorization": "Bearer t0ken"}, True),
        (basic("ann", "pä:ss"), True),
        (basic("anybody", "t0ken"), True),
        (basic("t0ken", ""), True),
        ({}, False),
        ({"x-admin-token": "other"}, False),
        ({"x-admin-token": ""}, False),
        ({"authorization": "Bearer other"}, False),
        ({"authorization": "Bearer"}, False),
        ({"authorization": "t0ken"}, False),
        ({"authorization": "Basic !"}, False),
        ({"authorization": "Basic " + base64.b64encode(b"t0ken").decode()}, False),
        (basic("ann", "wrong"), False),
        (basic("bob", "pä:ss"), False),
        (basic("t0ken", "x"), False),
    ],
)
@pytest.mark.parametrize("http_method", ["GET", "POST"])
def test_credentials(
    guarded: SimulatedHost, http_method: str, headers: dict[str, str], *, allowed: bool
) -> None:
    with guarded.client() as client:
        answer = client.request(http_method, "/prpc/Version?json", headers=headers)
    if allowed:
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.content) == (401, b"")
        assert answer.headers["www-authenticate"] == 'Basic realm="dstack-vmm API"'
    assert guarded.log()[-1]["credentials_ok"] is allowed


def test_token_in_the_query_counts_on_get_only(guarded: SimulatedHost) -> None:
    with guarded.client() as client:
        assert client.get("/prpc/Version?token=t0ken").status_code == 200
        assert client.get("/prpc/Version?token=other").status_code == 401
        assert client.post("/prpc/Version?json&token=t0ken").status_code == 401


def test_refused_request_does_nothing(guarded: SimulatedHost) -> None:
    vm_id = guarded.vm_ids[0]
    assert guarded.rpc("StopVm", id=vm_id).status_code == 401
    assert guarded.status(vm_id) == "running"


def test_auth_covers_unmatched_routes(guarded: SimulatedHost) -> None:
    with guarded.client() as client:
        assert client.get("/nowhere").status_code == 401
        assert client.get("/nowhere?token=t0ken").status_code == 404


def test_enabled_without_credentials_denies_all() -> None:
    credentials = Credentials(enabled=True)
    assert not credentials.accept("GET", {b"x-admin-token": b""}, {"token": [""]})
    assert not credentials.accept("GET", {b"authorization": b"Basic Og=="}, {})


def test_secrets_are_not_in_the_repr() -> None:
    shown = repr(Credentials(enabled=True, tokens=("t0ken",), users=(("ann", "secret"),)))
    assert "t0ken" not in shown
    assert "secret" not in shown
