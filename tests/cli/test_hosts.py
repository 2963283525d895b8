from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select, update

from shared.database import transaction
from shared.sealing import Sealer, new_sealing_key
from shared.services.stops import connection_of
from shared.tables import VmHost
from tests.support.ports import free_port
from tests.support.simulated_host import simulated_host


if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

    from shared.models.hosts import HostCredentials
    from shared.settings import Settings
    from tests.cli.conftest import Cvmstop

ADDRESS = "http://127.0.0.1:1"


def credentials_of(engine: Engine, settings: Settings, name: str) -> HostCredentials:
    with transaction(engine) as session:
        host = session.scalars(select(VmHost).where(VmHost.name == name)).one()
        return connection_of(host, Sealer(settings.sealing_keys)).credentials


def test_add_and_list(cvmstop: Cvmstop, clean: Engine) -> None:
    cvmstop.must("hosts", "add", "b", ADDRESS)
    cvmstop.must("hosts", "add", "a", "unix:/run/vmm.sock", "--cap", "3")
    first, second = cvmstop.must("hosts", "list", "--json").rows()
    for time in ("created_at", "next_sync_at"):
        assert first.pop(time).endswith("Z")
    assert first == {
        "name": "a",
        "driver": "dstack",
        "address": "unix:/run/vmm.sock",
        "max_concurrent_stops": 3,
        "cvms": 0,
        "breaker": "closed",
        "breaker_open_until": None,
        "last_error": None,
        "disabled_at": None,
        "adopts_into": None,
        "synced_at": None,
        "sync_error": None,
    }
    assert (second["name"], second["max_concurrent_stops"]) == ("b", 8)
    with transaction(clean) as session:
        assert session.scalars(select(VmHost.sealed_credentials)).all() == [None, None]


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("http://h", "no port given: 80 is used\n"),
        ("https://h/vmm", "no port given: 443 is used\n"),
        ("http://h:80", ""),
        ("unix:/run/vmm.sock", ""),
    ],
)
def test_a_port_that_is_left_out_is_told(cvmstop: Cvmstop, address: str, told: str) -> None:
    assert cvmstop.must("hosts", "add", "h", address).err == told


def test_secrets_are_sealed_and_never_shown(
    cvmstop: Cvmstop, clean: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST_TOKEN", "very-secret")
    outcomes = [
        cvmstop.must("hosts", "add", "h", ADDRESS, "--token-env", "HOST_TOKEN"),
        cvmstop.must("hosts", "list"),
        cvmstop.must("hosts", "list", "--json"),
        cvmstop("hosts", "check"),
    ]
    assert not [o for o in outcomes if "very-secret" in o.out + o.err]
    token = credentials_of(clean, settings, "h").token
    assert token is not None
    assert token.get_secret_value() == "very-secret"
    with transaction(clean) as session:
        sealed = session.scalars(select(VmHost.sealed_credentials)).one()
    assert sealed is not None
    assert b"very-secret" not in sealed


def test_password_from_stdin(cvmstop: Cvmstop, clean: Engine, settings: Settings) -> None:
    arguments = ["--username", "ops", "--password-file", "-"]
    cvmstop.must("hosts", "add", "h", ADDRESS, *arguments, stdin="pass word\n")
    credentials = credentials_of(clean, settings, "h")
    assert credentials.username == "ops"
    assert credentials.password is not None
    assert credentials.password.get_secret_value() == "pass word"


def test_replace_writes_address_and_credentials_anew(
    cvmstop: Cvmstop, clean: Engine, settings: Settings, tmp_path: Path
) -> None:
    secret = tmp_path / "token"
    secret.write_text("one\n")
    cvmstop.must("hosts", "add", "h", ADDRESS, "--cap", "2", "--token-file", str(secret))
    with transaction(clean) as session:
        tomorrow = func.now() + func.make_interval(0, 0, 0, 1)
        session.execute(
            update(VmHost).values(
                unreachable_count=7,
                unreachable_since=func.now(),
                breaker_open_until=tomorrow,
                last_error="\x1b[2J refused",
            )
        )
    listing = cvmstop.must("hosts", "list").out
    assert "open" in listing
    assert "\\x1b[2J refused" in listing
    refused = cvmstop("hosts", "add", "h", "http://127.0.0.1:2")
    assert refused.status == 1
    assert "there is a host h already: give --replace" in refused.err
    cvmstop.must("hosts", "add", "h", "http://127.0.0.1:2", "--replace")
    (host,) = cvmstop.must("hosts", "list", "--json").rows()
    assert host["address"] == "http://127.0.0.1:2"
    assert host["max_concurrent_stops"] == 2, "a cap that is not given stays"
    assert (host["breaker"], host["last_error"]) == ("closed", None)
    with transaction(clean) as session:
        assert session.scalars(select(VmHost.unreachable_since)).one() is None
    assert credentials_of(clean, settings, "h").token is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["ftp://h:1"], "unknown scheme"),
        (["http://user:pw@h:1"], "holds credentials"),
        (["unix:vmm.sock"], "must be absolute"),
        (["http://h\udcff:1"], "outside of ASCII"),
        ([ADDRESS, "--driver", "qemu"], "no driver 'qemu'"),
        ([ADDRESS, "--cap", "0"], "--cap"),
        ([ADDRESS, "--token-env", "NOT_THERE"], "'NOT_THERE' is not set, or is empty"),
        ([ADDRESS, "--token-file", "/nowhere/at/all"], "No such file or directory"),
        ([ADDRESS, "--token-file", "-", "--token-env", "X"], "not both"),
        ([ADDRESS, "--username", "ops"], "go together"),
        ([ADDRESS, "--password-file", "-"], "go together"),
        ([ADDRESS, "--token-file", "-", "--ca-file", "-"], "only one thing"),
        (["https://h:1", "--ca-file", "-"], "CA certificates cannot be used"),
        (["https://h:1", "--client-key", "-"], "no client certificate"),
    ],
)
def test_wrong_usage(cvmstop: Cvmstop, arguments: list[str], text: str) -> None:
    outcome = cvmstop("hosts", "add", "h", *arguments, stdin="nonsense\n")
    assert outcome.status == 2
    assert text in " ".join(outcome.err.replace("│", " ").split())
    assert cvmstop.must("hosts", "list", "--json").rows() == []


def test_check(cvmstop: Cvmstop, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t0ken")
    with (
        simulated_host(vms=1) as open_host,
        simulated_host(vms=1, token="t0ken", tls="server") as closed_host,
    ):
        assert closed_host.tls is not None
        cvmstop.must("hosts", "add", "plain", open_host.url)
        tls = ["--ca-file", str(closed_host.tls.ca)]
        cvmstop.must("hosts", "add", "tls", closed_host.url, *tls, "--token-file", str(token))
        well = cvmstop.must("hosts", "check", "--json").rows()
        assert [(row["name"], row["ok"], row["authenticated"]) for row in well] == [
            ("plain", True, True),
            ("tls", True, True),
        ]
        assert all(row["version"] and row["error"] is None for row in well)

        cvmstop.must("hosts", "add", "refused", closed_host.url, *tls)
        cvmstop.must("hosts", "add", "untrusted", closed_host.url)
        cvmstop.must("hosts", "add", "gone", f"http://127.0.0.1:{free_port()}")
        outcome = cvmstop("hosts", "check", "--json")
        assert outcome.status == 1
        found = {
            row["name"]: (row["ok"], row["reachable"], row["authenticated"], row["error_code"])
            for row in outcome.rows()
        }
        assert found == {
            "plain": (True, True, True, None),
            "tls": (True, True, True, None),
            "refused": (False, True, False, "credentials_refused"),
            "untrusted": (False, False, None, "host_unreachable"),
            "gone": (False, False, None, "host_unreachable"),
        }
        assert cvmstop("hosts", "check").status == 1
        assert "plain" in cvmstop.must("hosts", "check", "plain").out


def test_check_with_another_sealing_key(cvmstop: Cvmstop, monkeypatch: pytest.MonkeyPatch) -> None:
    cvmstop.must("hosts", "add", "h", ADDRESS, "--token-file", "-", stdin="token")
    monkeypatch.setenv("CVMSTOP_SEALING_KEYS", new_sealing_key())
    outcome = cvmstop("hosts", "check", "--json")
    assert outcome.status == 1
    (row,) = outcome.rows()
    assert (row["reachable"], row["error_code"]) == (None, "bad_host_configuration")
    assert "put back the key" in row["error"]


def test_check_names_what_is_missing(cvmstop: Cvmstop) -> None:
    outcome = cvmstop("hosts", "check", "b", "a")
    assert outcome.status == 1
    assert outcome.err == "cvmstop: there is no host a, b\n"
