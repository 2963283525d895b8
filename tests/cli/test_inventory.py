"""`cvmstop hosts sync`, `hosts adopt`, `cvms unassigned`, and what `cvms list` shows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select, text

from shared.database import transaction
from shared.tables import Cvm
from tests.support.seeds import (
    make_cvm,
    make_ended_stop,
    make_host,
    make_key,
    make_user,
    make_workspace,
)
from tests.support.silent_server import silent_server
from tests.support.simulated_host import simulated_host


if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from tests.cli.conftest import Cvmstop
    from tests.support.simulated_host import SimulatedHost


@pytest.fixture
def node(cvmstop: Cvmstop) -> Iterator[SimulatedHost]:
    """Host `node` with three VMs, and workspace `blue`."""
    cvmstop.must("workspaces", "create", "blue")
    with simulated_host(vms=3, vm_prefix="guest") as host:
        cvmstop.must("hosts", "add", "node", host.url)
        yield host


def sync(cvmstop: Cvmstop, *names: str) -> dict[str, Any]:
    (row,) = cvmstop.must("hosts", "sync", "--json", *names).rows()
    return row


def unassigned(cvmstop: Cvmstop, *options: str) -> list[str]:
    rows = cvmstop.must("cvms", "unassigned", "--json", *options).rows()
    return [row["vm_uuid"] for row in rows]


def test_unknown_vms_are_shown_and_then_adopted(cvmstop: Cvmstop, node: SimulatedHost) -> None:
    assert sync(cvmstop) == {
        "host": "node",
        "vms": 3,
        "updated": 0,
        "adopted": 0,
        "vanished": 0,
        "unassigned": 3,
        "drifted": 0,
        "unusable": 0,
        "error": None,
    }
    assert set(unassigned(cvmstop)) == set(node.vm_ids)
    table = cvmstop.must("cvms", "unassigned", "--host", "node").out
    assert "running" in table
    assert table.count("guest") == 3
    told = cvmstop.must("hosts", "adopt", "node", "blue").out
    assert told == "from its next sync on, unknown VMs of host node go to workspace blue\n"
    (listed,) = cvmstop.must("hosts", "list", "--json").rows()
    assert listed["adopts_into"] == "blue"
    assert listed["synced_at"]
    assert sync(cvmstop, "node")["adopted"] == 3
    assert unassigned(cvmstop) == []
    cvms = cvmstop.must("cvms", "list", "--json", "--workspace", "blue").rows()
    assert {cvm["vm_uuid"] for cvm in cvms} == set(node.vm_ids)
    assert all(cvm["status"] == "running" and cvm["seen_at"] for cvm in cvms)
    cvmstop.must("hosts", "adopt", "node", "--none")
    node.add_vm("late-1")
    assert sync(cvmstop)["unassigned"] == 1
    assert "sees" not in cvmstop.must("hosts", "sync").out


def test_a_host_may_adopt_from_the_beginning(cvmstop: Cvmstop, node: SimulatedHost) -> None:
    add = ("hosts", "add", "node", node.url, "--replace")
    cvmstop.must(*add, "--adopt-into", "blue")
    assert sync(cvmstop)["adopted"] == 3
    cvmstop.must(*add)
    assert cvmstop.must("hosts", "list", "--json").rows()[0]["adopts_into"] == "blue"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["adopt", "node"], 2, "give a WORKSPACE, or --none"),
        (["adopt", "node", "blue", "--none"], 2, "give a WORKSPACE, or --none"),
        (["adopt", "node", "red"], 1, "there is no workspace red"),
        (["adopt", "nobody", "blue"], 1, "there is no host nobody"),
        (["add", "new", "http://127.0.0.1:1", "--adopt-into", "red"], 1, "there is no workspace"),
        (["sync", "nobody"], 1, "there is no host nobody"),
    ],
)
def test_what_cannot_be(
    cvmstop: Cvmstop, node: SimulatedHost, arguments: list[str], status: int, words: str
) -> None:
    del node
    outcome = cvmstop("hosts", *arguments)
    assert outcome.status == status
    assert words in " ".join(outcome.err.replace("│", " ").split())
    assert len(cvmstop.must("hosts", "list", "--json").rows()) == 1


def test_unassigned_of_no_host(cvmstop: Cvmstop) -> None:
    assert cvmstop("cvms", "unassigned", "--host", "nobody").status == 1


def test_silent_and_dead_hosts_hold_up_no_other(
    cvmstop: Cvmstop, node: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    del node
    monkeypatch.setenv("CVMSTOP_HOST_QUERY_TIMEOUT", "0.5")
    with silent_server() as silent:
        address = silent.url.replace("redis", "http").removesuffix("/0")
        for number in range(3):
            cvmstop.must("hosts", "add", f"silent-{number}", address)
        cvmstop.must("hosts", "add", "dead", "http://127.0.0.1:1")
        outcome = cvmstop("hosts", "sync", "--json")
    assert outcome.status == 1
    rows = {row["host"]: row for row in outcome.rows()}
    assert (rows["node"]["vms"], rows["node"]["error"]) == (3, None)
    assert "127.0.0.1:1" in rows["dead"]["error"]
    assert rows["dead"]["vms"] is None
    assert all(rows[f"silent-{number}"]["error"] for number in range(3))
    errors = {
        row["name"]: row["sync_error"] for row in cvmstop.must("hosts", "list", "--json").rows()
    }
    assert errors == {name: row["error"] for name, row in rows.items()}
    assert cvmstop("hosts", "sync").status == 1
    assert cvmstop("hosts", "sync", "node").status == 0


def test_a_breaker_does_not_keep_a_person_from_asking(
    cvmstop: Cvmstop, node: SimulatedHost, clean: Engine
) -> None:
    del node
    with transaction(clean) as session:
        session.execute(text("UPDATE vm_hosts SET breaker_open_until = now() + interval '1 day'"))
    assert sync(cvmstop)["vms"] == 3


def test_drift_is_shown(cvmstop: Cvmstop, node: SimulatedHost, clean: Engine) -> None:
    cvmstop.must("hosts", "adopt", "node", "blue")
    sync(cvmstop)
    with transaction(clean) as session:
        first, *_ = session.scalars(select(Cvm).order_by(Cvm.hash_id))
        hash_id, vm_uuid = first.hash_id, first.vm_uuid
        assert vm_uuid is not None
        user = make_user(session)
        key, _ = make_key(session, user, make_workspace(session))
        stop = make_ended_stop(session, first, key, finished_at=func.now()).id
    assert cvmstop.must("cvms", "list", "--drifted", "--json").rows() == []
    assert sync(cvmstop)["drifted"] == 1
    (row,) = cvmstop.must("cvms", "list", "--drifted", "--json").rows()
    assert (row["id"], row["drift_host"]) == (hash_id, "node")
    assert row["drift_stop_task_id"] == str(stop)
    assert row["drift_noticed_at"]
    assert "drift host" in cvmstop.must("cvms", "list", "--wide").out
    assert "drift noticed (UTC)" in cvmstop.must("cvms", "list").out
    node.change_vm(vm_uuid, status="stopped")
    assert sync(cvmstop)["drifted"] == 0
    assert cvmstop.must("cvms", "list", "--drifted", "--json").rows() == []
    assert "drift" not in cvmstop.must("cvms", "list").out


def test_a_host_with_drifts_on_record_stays(
    cvmstop: Cvmstop, node: SimulatedHost, clean: Engine
) -> None:
    """Though the CVM and its stop are another's by now."""
    with transaction(clean) as session:
        workspace, other = make_workspace(session), make_host(session)
        key, _ = make_key(session, make_user(session), workspace)
        cvm = make_cvm(session, workspace, other)
        stop = make_ended_stop(session, cvm, key)
        session.execute(
            text(
                "INSERT INTO cvm_drifts (cvm_id, stop_task_id, vm_host_id)"
                " SELECT :cvm, :stop, id FROM vm_hosts WHERE name = 'node'"
            ),
            {"cvm": cvm.id, "stop": stop.id},
        )
    del node
    outcome = cvmstop("hosts", "remove", "node")
    assert outcome.status == 1
    assert "CVMs ran again on it (1)" in outcome.err


def test_a_host_goes_with_what_it_lists(cvmstop: Cvmstop, node: SimulatedHost) -> None:
    del node
    sync(cvmstop)
    cvmstop.must("hosts", "remove", "node")
    assert unassigned(cvmstop) == []
