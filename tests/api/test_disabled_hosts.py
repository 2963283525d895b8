"""What the CVMs of a host that was taken out are answered with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, update

from shared.database import driver_transaction, transaction
from shared.services.hosts import set_disabled
from shared.services.stops import ClaimedStop, claim_stop
from shared.tables import StopTask, VmHost, Workspace
from tests.support.seeds import make_cvm, make_host
from tests.workers.test_dispatcher import RecordingBroker
from workers.dispatcher import run_round


if TYPE_CHECKING:
    import httpx
    from sqlalchemy import Engine

    from shared.settings import Settings
    from tests.api.conftest import World

REFUSED = "VM host is disabled"


def stop(http: httpx.Client, *cvm_ids: str, query: str = "") -> dict[str, Any]:
    answer = http.post(f"/api/v1/cvms/batch-stop{query}", json={"cvm_ids": cvm_ids})
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    assert found["total"] == found["stopped"] + found["skipped"] + len(found["errors"])  # I1
    return found


def disable(engine: Engine, *, disabled: bool = True) -> None:
    with transaction(engine) as session:
        set_disabled(session, ["node-1"], disabled=disabled)


@pytest.fixture
def elsewhere(clean: Engine, world: World) -> str:  # noqa: ARG001 - its hosts
    """A CVM of the member's workspace on a host of its own; the others' is taken out."""
    with transaction(clean) as session:
        workspace = session.scalars(select(Workspace).where(Workspace.name == "acme")).one()
        cvm = make_cvm(session, workspace, make_host(session, name="node-2"))
        hash_id = cvm.hash_id
    disable(clean)
    return hash_id


@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_an_error_each_in_the_order_of_the_ids(
    client: httpx.Client, world: World, elsewhere: str, query: str
) -> None:
    """What would be skipped anyway is skipped: that is what the specification calls it."""
    ours = world.ours
    ids = ["cvm_none", ours[1], elsewhere, world.theirs[0], ours[0], ours[1], elsewhere]
    ids += [world.busy, world.rented, world.without_vm]
    assert stop(client, *ids, query=query) == {
        "total": 10,
        "stopped": 1,
        "skipped": 4,
        "errors": [
            {"cvm_id": "cvm_none", "error": "CVM not found"},
            {"cvm_id": ours[1], "error": REFUSED},
            {"cvm_id": world.theirs[0], "error": "CVM not found"},
            {"cvm_id": ours[0], "error": REFUSED},
            {"cvm_id": ours[1], "error": REFUSED},
        ],
    }


@pytest.mark.usefixtures("elsewhere")
def test_an_admin_is_told_of_every_cvm(admin: httpx.Client, world: World) -> None:
    answer = stop(admin, world.ours[0], world.theirs[0])
    assert [error["error"] for error in answer["errors"]] == [REFUSED, REFUSED]


@pytest.mark.usefixtures("elsewhere")
def test_enabled_again(client: httpx.Client, world: World, clean: Engine) -> None:
    assert stop(client, world.ours[0])["stopped"] == 0
    disable(clean, disabled=False)
    assert stop(client, world.ours[0])["stopped"] == 1


def test_stops_that_were_accepted_before_go_on(
    client: httpx.Client, world: World, clean: Engine, settings: Settings
) -> None:
    """The dispatcher sends them, workers claim them, and each new try is made."""
    stop(client, world.ours[0])
    disable(clean)
    with transaction(clean) as session:
        task = session.scalars(select(StopTask.id)).one()
        session.execute(update(StopTask).values(sent_at=None, attempt=3))
    broker = RecordingBroker()
    assert run_round(clean, broker, settings).sent == 1
    assert broker.sent == [task]
    with driver_transaction(clean) as connection:
        claimed = claim_stop(connection, task, worker="w@1", settings=settings)
    assert isinstance(claimed, ClaimedStop)
    assert stop(client, world.ours[0])["skipped"] == 1


def test_no_row_of_a_host_is_locked_or_waited_for(
    client: httpx.Client, world: World, clean: Engine
) -> None:
    """A claim holds it, or a host's operator does."""
    with transaction(clean) as session:
        session.execute(select(VmHost).with_for_update(key_share=True))
        assert stop(client, world.ours[0])["stopped"] == 1
