"""CVMs and their drift, over real HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from sqlalchemy import select, text

import shared.storage.cvm_views
from shared.database import transaction
from shared.tables import ApiKey, Cvm
from tests.support.seeds import make_ended_stop
from tests.support.statements import statements_seen


if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Engine

    from tests.api.conftest import World


def get(client: httpx.Client, path: str = "", **params: Any) -> Any:
    answer = client.get(f"/api/v1/cvms{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def found(client: httpx.Client, **params: Any) -> list[str]:
    """Read all pages."""
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = get(client, **params, **cursor)
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            return seen
        cursor = {"cursor": page["next_cursor"]}


def drift(engine: Engine, hash_id: str) -> UUID:
    """Let a CVM run again after a stop; gives the stop."""
    with transaction(engine) as session:
        cvm = session.scalars(select(Cvm).where(Cvm.hash_id == hash_id)).one()
        stop = make_ended_stop(session, cvm, session.scalars(select(ApiKey).limit(1)).one())
        session.execute(
            text(
                "INSERT INTO cvm_drifts (cvm_id, stop_task_id, vm_host_id)"
                " VALUES (:cvm, :stop, :host)"
            ),
            {"cvm": cvm.id, "stop": stop.id, "host": cvm.vm_host_id},
        )
        return stop.id


class TestOne:
    def test_a_stop_of_the_workspace_it_was_in_before_is_not_told(
        self, client: httpx.Client, world: World, clean: Engine
    ) -> None:
        drift(clean, world.ours[0])
        with transaction(clean) as session:
            elsewhere = "SELECT workspace_id FROM cvms WHERE hash_id = :theirs"
            session.execute(
                text(f"UPDATE stop_tasks SET workspace_id = ({elsewhere})"),  # noqa: S608 - our own text
                {"theirs": world.theirs[0]},
            )
        shown = get(client, f"/{world.ours[0]}")["drift"]
        assert shown["noticed_at"]
        assert shown["stop_task_id"] is None

    def test_as_it_was_seen_last(self, client: httpx.Client, world: World, clean: Engine) -> None:
        with transaction(clean) as session:
            session.execute(
                text("UPDATE cvms SET seen_at = now(), status = 'exited' WHERE hash_id = :id"),
                {"id": world.ours[0]},
            )
        shown = get(client, f"/{world.ours[0]}")
        assert shown["id"] == world.ours[0]
        assert (shown["workspace"], shown["host"]) == ("acme", "node-1")
        assert (shown["status"], shown["in_progress"]) == ("exited", False)
        assert shown["seen_at"]
        assert (shown["vanished_at"], shown["drift"]) == (None, None)
        assert "gpu_rental_order" not in shown

    def test_without_a_host(self, client: httpx.Client, world: World) -> None:
        shown = get(client, f"/{world.without_vm}")
        assert (shown["host"], shown["vm_uuid"], shown["seen_at"]) == (None, None, None)

    def test_that_runs_again(self, client: httpx.Client, world: World, clean: Engine) -> None:
        stop = drift(clean, world.ours[0])
        shown = get(client, f"/{world.ours[0]}")["drift"]
        assert (shown["host"], shown["stop_task_id"]) == ("node-1", str(stop))
        assert shown["noticed_at"]
        with transaction(clean) as session:
            session.execute(text("UPDATE cvm_drifts SET ended_at = now()"))
        assert get(client, f"/{world.ours[0]}")["drift"] is None

    def test_a_foreign_one_is_as_unknown_as_none(self, client: httpx.Client, world: World) -> None:
        answers: list[tuple[int, str]] = []
        for cvm_id in (world.theirs[0], "cvm_nowhere"):
            answer = client.get(f"/api/v1/cvms/{cvm_id}")
            answers.append((answer.status_code, answer.text.replace(cvm_id, "it")))
        assert answers[0] == answers[1]
        assert answers[0][0] == 404

    def test_in_the_same_number_of_queries(self, client: httpx.Client, world: World) -> None:
        counts: list[int] = []
        for cvm_id in (world.theirs[0], "cvm_nowhere", world.ours[0]):
            with statements_seen() as statements:
                client.get(f"/api/v1/cvms/{cvm_id}")
            counts.append(len(statements))
        assert len(set(counts)) == 1
        assert counts[0] > 0

    def test_any_for_an_admin(self, admin: httpx.Client, world: World) -> None:
        assert get(admin, f"/{world.theirs[0]}")["workspace"] == "globex"

    @pytest.mark.parametrize(
        ("cvm_id", "status"), [("%00", 422), ("x" * 5_000, 404), ("%F0%9F%92%A5", 404)]
    )
    def test_what_is_no_id(self, client: httpx.Client, cvm_id: str, status: int) -> None:
        assert client.get(f"/api/v1/cvms/{cvm_id}").status_code == status

    def test_the_other_operation_is_not_taken_for_an_id(self, client: httpx.Client) -> None:
        answer = client.get("/api/v1/cvms/batch-stop")
        assert answer.status_code == 405
        assert answer.headers["allow"] == "POST"


class TestList:
    def test_of_the_workspace_by_id(
        self, client: httpx.Client, admin: httpx.Client, world: World
    ) -> None:
        ours = sorted([*world.ours, world.busy, world.without_vm, world.rented])
        assert found(client, limit=7) == ours
        assert found(client, limit=500) == ours
        assert found(admin) == sorted([*ours, *world.theirs])

    def test_a_stranger_finds_their_own_only(
        self, anonymous: httpx.Client, world: World, clean: Engine
    ) -> None:
        drift(clean, world.ours[0])
        anonymous.headers["X-API-Key"] = world.stranger_key
        assert found(anonymous) == sorted(world.theirs)
        assert found(anonymous, workspace="acme") == []
        assert found(anonymous, drifted=True) == []
        assert found(anonymous, in_progress=True) == []

    def test_filters(self, admin: httpx.Client, world: World, clean: Engine) -> None:
        drift(clean, world.ours[0])
        drift(clean, world.theirs[0])
        with transaction(clean) as session:
            session.execute(
                text("UPDATE cvms SET status = 'absent' WHERE hash_id = :id"),
                {"id": world.ours[1]},
            )
        assert found(admin, workspace="globex") == sorted(world.theirs)
        assert world.without_vm not in found(admin, host="node-1")
        assert found(admin, host="node-2") == []
        assert found(admin, status="absent") == [world.ours[1]]
        assert found(admin, status="absent", workspace="globex") == []
        assert found(admin, drifted=True) == sorted([world.ours[0], world.theirs[0]])
        assert found(admin, drifted=True, workspace="acme", host="node-1") == [world.ours[0]]
        assert world.ours[0] not in found(admin, drifted=False)
        assert world.ours[1] in found(admin, drifted=False)
        assert found(admin, in_progress=True) == [world.busy]
        assert world.busy not in found(admin, in_progress=False)

    def test_a_page_looks_through_so_many_and_says_where_it_got_to(
        self, admin: httpx.Client, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shared.storage.cvm_views, "LOOKED_THROUGH", 10)
        page = get(admin, status="nothing like it")
        assert page["items"] == []
        assert page["next_cursor"]
        assert found(admin, in_progress=True) == [world.busy]
        assert len(found(admin, status="running")) == len(world.ours) + len(world.theirs) + 3
        assert len(found(admin, status="running", limit=3)) == 66

    @pytest.mark.parametrize(
        ("params", "status"),
        [
            ({"limit": 0}, 422),
            ({"limit": 501}, 422),
            ({"drifted": "maybe"}, 422),
            ({"host": "\x00"}, 422),
            ({"drift": "true"}, 422),
            ({"cursor": "x"}, 400),
            ({"cursor": "é"}, 400),
            ({"cursor": "\x00"}, 400),
            ({"cursor": "MjAyNi0wMS0wMVQwMDowMDowMCB4"}, 400),
        ],
    )
    def test_bad_input(self, client: httpx.Client, params: dict[str, Any], status: int) -> None:
        answer = client.get("/api/v1/cvms", params=params)
        assert answer.status_code == status
        assert answer.json()["detail"]
