"""`cvmstop hosts disable | enable`, and what `check` says beside what the host answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select, update

from shared.database import transaction
from shared.tables import VmHost
from tests.support.ports import free_port
from tests.support.seeds import make_cvm, make_ended_stop, make_key, make_user, make_workspace
from tests.support.simulated_host import simulated_host


if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.cli.conftest import Cvmstop

ADDRESS = "http://127.0.0.1:1"

FIELDS = {
    "name",
    "address",
    "ok",
    "reachable",
    "authenticated",
    "version",
    "revision",
    "vms",
    "cap",
    "stops_open",
    "breaker",
    "last_error",
    "disabled",
    "error_code",
    "error",
}
"""Of `hosts check --json`: programs read them."""


def disabled(cvmstop: Cvmstop) -> dict[str, bool]:
    rows = cvmstop.must("hosts", "list", "--json").rows()
    return {row["name"]: row["disabled_at"] is not None for row in rows}


class TestDisable:
    def test_and_enable(self, cvmstop: Cvmstop) -> None:
        for name in ("a", "b", "c"):
            cvmstop.must("hosts", "add", name, ADDRESS)
        told = cvmstop.must("hosts", "disable", "a", "b").out
        assert told == "host a is disabled\nhost b is disabled\n"
        assert disabled(cvmstop) == {"a": True, "b": True, "c": False}
        assert cvmstop.must("hosts", "enable", "b").out == "host b is enabled\n"
        assert disabled(cvmstop) == {"a": True, "b": False, "c": False}
        header, *lines = cvmstop.must("hosts", "list").out.splitlines()
        assert header.endswith("disabled (UTC)")
        assert [line.endswith("-") for line in lines] == [False, True, True]

    def test_again_keeps_since_when(self, cvmstop: Cvmstop) -> None:
        cvmstop.must("hosts", "add", "a", ADDRESS)
        cvmstop.must("hosts", "enable", "a")
        listed = []
        for _ in range(2):
            cvmstop.must("hosts", "disable", "a")
            listed.append(cvmstop.must("hosts", "list", "--json").out)
        assert listed[0] == listed[1]

    def test_an_unknown_name_changes_nothing(self, cvmstop: Cvmstop) -> None:
        cvmstop.must("hosts", "add", "a", ADDRESS)
        for command in ("disable", "enable"):
            outcome = cvmstop("hosts", command, "a", "z", "y")
            assert outcome.status == 1
            assert outcome.err == "cvmstop: there is no host y, z\n"
        assert disabled(cvmstop) == {"a": False}

    def test_no_name_is_wrong_usage(self, cvmstop: Cvmstop) -> None:
        """It must not mean all of them."""
        assert cvmstop("hosts", "disable").status == 2

    def test_stays_when_the_host_is_written_anew(self, cvmstop: Cvmstop) -> None:
        cvmstop.must("hosts", "add", "a", ADDRESS)
        cvmstop.must("hosts", "disable", "a")
        cvmstop.must("hosts", "add", "a", "http://127.0.0.1:2", "--replace")
        assert disabled(cvmstop) == {"a": True}


class TestCheck:
    def test_says_how_a_host_stands_with_us(self, cvmstop: Cvmstop, clean: Engine) -> None:
        with simulated_host(vms=3) as host:
            cvmstop.must("hosts", "add", "full", host.url, "--cap", "2")
            cvmstop.must("hosts", "add", "empty", host.url)
            with transaction(clean) as session:
                row = session.scalars(select(VmHost).where(VmHost.name == "full")).one()
                workspace = make_workspace(session)
                key, _ = make_key(session, make_user(session, workspace), workspace)
                for state in ("scheduled", "confirming", "succeeded", "failed"):
                    ended = func.now() if state in {"succeeded", "failed"} else None
                    cvm = make_cvm(session, workspace, row)
                    make_ended_stop(session, cvm, key, state=state, finished_at=ended)
                session.execute(
                    update(VmHost)
                    .where(VmHost.name == "full")
                    .values(unreachable_count=1, last_error="refused")
                )
            empty, full = cvmstop.must("hosts", "check", "--json").rows()
            table = cvmstop.must("hosts", "check", "--wide").out
        assert set(full) == FIELDS
        assert (full["vms"], full["cap"], full["stops_open"]) == (3, 2, 2)
        assert (full["breaker"], full["last_error"], full["disabled"]) == (
            "closed",
            "refused",
            False,
        )
        assert (empty["vms"], empty["cap"], empty["stops_open"]) == (3, 8, 0)
        assert table.split("\n")[0].split("  ")[0] == "name"
        assert "stops open" in table

    def test_a_disabled_host_may_be_unwell(self, cvmstop: Cvmstop) -> None:
        with simulated_host(vms=1) as host:
            cvmstop.must("hosts", "add", "well", host.url)
            cvmstop.must("hosts", "add", "gone", f"http://127.0.0.1:{free_port()}")
            assert cvmstop("hosts", "check").status == 1
            cvmstop.must("hosts", "disable", "gone")
            gone, well = cvmstop.must("hosts", "check", "--json").rows()
        assert (gone["ok"], gone["disabled"], gone["error_code"]) == (
            False,
            True,
            "host_unreachable",
        )
        assert set(gone) == FIELDS
        assert (well["ok"], well["disabled"]) == (True, False)

    def test_a_host_that_cannot_list_its_vms_is_not_well(self, cvmstop: Cvmstop) -> None:
        with simulated_host(vms=1) as host:
            cvmstop.must("hosts", "add", "a", host.url)
            host.change(faults=[{"kind": "error", "methods": ["Status"], "text": "no list"}])
            outcome = cvmstop("hosts", "check", "--json")
        assert outcome.status == 1
        (row,) = outcome.rows()
        assert (row["ok"], row["reachable"], row["vms"]) == (False, True, None)
        assert row["version"]
        assert row["error_code"] == "host_error"

    def test_silent_hosts(self, cvmstop: Cvmstop, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that says nothing, and one that says its version and then no more."""
        monkeypatch.setenv("CVMSTOP_HOST_QUERY_TIMEOUT", "0.3")
        with simulated_host(vms=1, dead=True) as dead, simulated_host(vms=1) as half:
            half.change(faults=[{"kind": "hang", "methods": ["Status"]}])
            cvmstop.must("hosts", "add", "dead", dead.url)
            cvmstop.must("hosts", "add", "half", half.url)
            outcome = cvmstop("hosts", "check", "--json")
        assert outcome.status == 1
        silent, spoke = outcome.rows()
        assert (silent["reachable"], silent["version"], silent["vms"]) == (False, None, None)
        assert (spoke["reachable"], spoke["version"], spoke["vms"]) == (True, "0.6.0", None)
        assert silent["error_code"] == spoke["error_code"] == "host_timeout"

    def test_credentials_that_are_refused_for_the_list_only(self, cvmstop: Cvmstop) -> None:
        with simulated_host(vms=1) as host:
            cvmstop.must("hosts", "add", "a", host.url)
            host.change(faults=[{"kind": "unauthorized", "methods": ["Status"]}])
            (row,) = cvmstop("hosts", "check", "--json").rows()
        assert (row["reachable"], row["authenticated"]) == (True, False)
