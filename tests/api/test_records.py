"""Looking batches, stops and failures up, over real HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text

from shared.database import driver_transaction, transaction
from shared.models.errors import ErrorCode, Fate
from shared.models.states import PowerState
from shared.models.turns import Exchange, Failure, TurnResult
from shared.services.stops import ClaimedStop, claim_stop, settle_stop
from workers.purge import run_purge


if TYPE_CHECKING:
    from sqlalchemy import Engine

    from shared.settings import Settings
    from tests.api.conftest import World

FINAL = Failure(code=ErrorCode.CREDENTIALS_REFUSED, fate=Fate.FINAL, message="the host said 401")


def post(client: httpx.Client, ids: list[str]) -> str:
    answer = client.post("/api/v1/cvms/batch-stop", json={"cvm_ids": ids})
    assert answer.status_code == 200
    return answer.headers["x-batch-id"]


def get(client: httpx.Client, path: str, **params: Any) -> Any:
    answer = client.get(f"/api/v1/{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def fail(engine: Engine, settings: Settings, stop_task_id: str) -> None:
    """Let a stop fail as a worker does."""
    result = TurnResult(
        power_state=PowerState.RUNNING,
        failure=FINAL,
        exchanges=(Exchange(request='StopVm {"id": "x"}', answer="401", seconds=0.01),),
    )
    with driver_transaction(engine) as connection:
        claimed = claim_stop(connection, UUID(stop_task_id), worker="w@1", settings=settings)
        assert isinstance(claimed, ClaimedStop)
        settle_stop(connection, claimed.claim, result, settings=settings)


class TestBatches:
    def test_one_with_its_tasks_and_counts(self, client: httpx.Client, world: World) -> None:
        batch_id = post(client, [*world.ours[:3], world.busy, "cvm_nowhere"])
        batch = get(client, f"batches/{batch_id}")
        assert (batch["total"], batch["stopped"], batch["skipped"]) == (5, 3, 1)
        assert batch["errors"] == [{"cvm_id": "cvm_nowhere", "error": "CVM not found"}]
        assert batch["counts"] == {
            "scheduled": 3,
            "stopping": 0,
            "confirming": 0,
            "succeeded": 0,
            "failed": 0,
            "canceled": 0,
        }
        assert batch["open"] == 3
        assert {task["cvm_id"] for task in batch["tasks"]} == set(world.ours[:3])
        assert (batch["user"], batch["workspace"]) == ("alice", "acme")

    def test_an_empty_one(self, client: httpx.Client) -> None:
        assert get(client, f"batches/{post(client, [])}")["tasks"] == []

    def test_listed_newest_first_page_by_page(self, client: httpx.Client, world: World) -> None:
        made = [post(client, [cvm]) for cvm in world.ours[:5]]
        seen: list[str] = []
        cursor = None
        while True:
            params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            page = get(client, "batches", **params)
            seen += [batch["id"] for batch in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == list(reversed(made))

    def test_a_strangers_is_not_found(
        self, client: httpx.Client, anonymous: httpx.Client, world: World
    ) -> None:
        batch_id = post(client, world.ours[:1])
        headers = {"X-API-Key": world.stranger_key}
        foreign = anonymous.get(f"/api/v1/batches/{batch_id}", headers=headers)
        unknown = anonymous.get(f"/api/v1/batches/{uuid4()}", headers=headers)
        assert foreign.status_code == unknown.status_code == 404
        assert anonymous.get("/api/v1/batches", headers=headers).json()["items"] == []

    def test_one_that_was_purged_is_not_found(
        self, client: httpx.Client, world: World, clean: Engine, settings: Settings
    ) -> None:
        batch_id = post(client, world.ours[:1])
        (task,) = get(client, f"batches/{batch_id}")["tasks"]
        fail(clean, settings, task["id"])
        with transaction(clean) as session:
            session.execute(text("UPDATE stop_batches SET accepted_at = now() - interval '1 year'"))
        assert run_purge(clean, settings).batches == 1
        for path in (f"batches/{batch_id}", f"stop-tasks/{task['id']}"):
            assert client.get(f"/api/v1/{path}").status_code == 404
        assert get(client, "batches")["items"] == get(client, "stop-tasks")["items"] == []
        post(client, world.ours[:1])

    def test_an_admins_is_not_shown_to_members(
        self, client: httpx.Client, admin: httpx.Client, world: World
    ) -> None:
        """It may hold CVMs of any workspace; the member sees the stops of its own."""
        batch_id = post(admin, [world.ours[0], world.theirs[0]])
        assert client.get(f"/api/v1/batches/{batch_id}").status_code == 404
        assert get(client, "batches")["items"] == []
        items = get(client, "stop-tasks")["items"]
        assert [item["cvm_id"] for item in items] == [world.ours[0]]

    def test_an_admin_sees_everybodys(
        self, client: httpx.Client, admin: httpx.Client, world: World
    ) -> None:
        batch_id = post(client, world.ours[:1])
        assert get(admin, f"batches/{batch_id}")["id"] == batch_id


class TestStopTasks:
    def test_a_failure_with_what_was_sent_and_answered(
        self, client: httpx.Client, world: World, clean: Engine, settings: Settings
    ) -> None:
        post(client, world.ours[:3])
        (first, *_) = get(client, "stop-tasks")["items"]
        fail(clean, settings, first["id"])
        failed = get(client, "stop-tasks", state="failed")["items"]
        assert [item["id"] for item in failed] == [first["id"]]
        detail = get(client, f"stop-tasks/{first['id']}")
        assert (detail["state"], detail["error_code"]) == ("failed", "credentials_refused")
        (attempt,) = detail["attempt_log"]
        assert attempt["worker"] == "w@1"
        assert attempt["outcome"] == "failed"
        assert attempt["power_state"] == "running"
        assert attempt["error_message"] == "the host said 401"
        assert attempt["exchanges"] == [
            {"request": 'StopVm {"id": "x"}', "answer": "401", "seconds": 0.01}
        ]
        assert attempt["finished_at"] >= attempt["started_at"]

    def test_filters(
        self, admin: httpx.Client, world: World, clean: Engine, settings: Settings
    ) -> None:
        batch_id = post(admin, [world.ours[0], world.theirs[0]])
        other_batch = post(admin, [world.ours[1]])
        items = get(admin, "stop-tasks")["items"]
        by_cvm = {item["cvm_id"]: item for item in items}
        fail(clean, settings, by_cvm[world.theirs[0]]["id"])
        accepted_at = by_cvm[world.ours[1]]["accepted_at"]

        def found(**params: Any) -> set[str]:
            return {item["cvm_id"] for item in get(admin, "stop-tasks", **params)["items"]}

        everything = {world.ours[0], world.ours[1], world.theirs[0]}
        assert found() == everything
        assert found(state="failed") == {world.theirs[0]}
        assert found(state=["failed", "scheduled"]) == everything
        assert found(cvm_id=world.ours[0]) == {world.ours[0]}
        assert found(host="node-1") == everything
        assert found(host="node-2") == set()
        assert found(batch_id=other_batch) == {world.ours[1]}
        assert found(batch_id=batch_id, workspace="globex") == {world.theirs[0]}
        assert found(error_code="credentials_refused") == {world.theirs[0]}
        assert found(accepted_from=accepted_at) == {world.ours[1]}
        assert found(accepted_before=accepted_at) == {world.ours[0], world.theirs[0]}
        assert found(request_id=by_cvm[world.ours[1]]["request_id"]) == {world.ours[1]}
        assert found(request_id="nobody's") == set()
        assert found(retried=False) == everything
        assert found(retried=True) == set()

    def test_pages_of_one_batch_miss_nothing(self, client: httpx.Client, world: World) -> None:
        """All of them were accepted at the same instant."""
        post(client, world.ours[:50])
        seen: list[str] = []
        cursor: str | None = None
        while True:
            page = get(client, "stop-tasks", limit=7, **({"cursor": cursor} if cursor else {}))
            seen += [item["cvm_id"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert len(seen) == 50
        assert set(seen) == set(world.ours[:50])

    def test_a_member_sees_its_own_workspace_only(
        self, client: httpx.Client, admin: httpx.Client, world: World
    ) -> None:
        post(admin, [world.ours[0], world.theirs[0]])
        ids = {item["cvm_id"]: item["id"] for item in get(admin, "stop-tasks")["items"]}
        assert client.get(f"/api/v1/stop-tasks/{ids[world.theirs[0]]}").status_code == 404
        assert get(client, f"stop-tasks/{ids[world.ours[0]]}")["cvm_id"] == world.ours[0]
        assert get(client, "stop-tasks", workspace="globex")["items"] == []
        assert get(client, "stop-tasks", cvm_id=world.theirs[0])["items"] == []

    def test_of_a_request_a_member_sees_its_own_workspace_only(
        self, client: httpx.Client, admin: httpx.Client, world: World
    ) -> None:
        headers = {"X-Request-ID": "from-a-log-line"}
        body = {"cvm_ids": [world.ours[0], world.theirs[0]]}
        admin.post("/api/v1/cvms/batch-stop", json=body, headers=headers)
        for caller, seen in ((admin, body["cvm_ids"]), (client, world.ours[:1])):
            items = get(caller, "stop-tasks", request_id="from-a-log-line")["items"]
            assert {item["cvm_id"] for item in items} == set(seen)

    def test_a_retried_one_is_told_from_the_others(
        self, client: httpx.Client, world: World, clean: Engine, settings: Settings
    ) -> None:
        post(client, world.ours[:2])
        first, second = get(client, "stop-tasks")["items"]
        for each in (first, second):
            fail(clean, settings, each["id"])
        client.post(f"/api/v1/stop-tasks/{first['id']}/retry")
        for retried, task in ((True, first), (False, second)):
            items = get(client, "stop-tasks", state="failed", retried=retried)["items"]
            assert [item["id"] for item in items] == [task["id"]]


class TestGroups:
    def test_by_reason_and_host(
        self,
        client: httpx.Client,
        admin: httpx.Client,
        world: World,
        clean: Engine,
        settings: Settings,
    ) -> None:
        batch_id = post(admin, [*world.ours[:2], world.theirs[0]])
        for each in get(admin, "stop-tasks")["items"]:
            fail(clean, settings, each["id"])
        newest = get(client, "stop-tasks")["items"][0]
        found = get(client, "stop-tasks/groups", batch_id=batch_id)
        assert found == {
            "groups": [
                {
                    "error_code": "credentials_refused",
                    "host": "node-1",
                    "count": 2,
                    "oldest_at": newest["accepted_at"],
                    "newest_at": newest["accepted_at"],
                    "sample_id": newest["id"],
                    "sample_message": "the host said 401",
                }
            ],
            "counted": 2,
            "left_out": 0,
            "is_cut_off": False,
        }
        assert get(admin, "stop-tasks/groups")["groups"][0]["count"] == 3
        assert get(client, "stop-tasks/groups", host="node-2")["groups"] == []

    @pytest.mark.parametrize("params", [{"state": "failed"}, {"retried": "perhaps"}, {"limit": 1}])
    def test_bad_input(self, client: httpx.Client, params: dict[str, Any]) -> None:
        assert client.get("/api/v1/stop-tasks/groups", params=params).status_code == 422


class TestBadInput:
    @pytest.mark.parametrize(
        ("params", "status"),
        [
            ({"state": "broken"}, 422),
            ({"stat": "failed"}, 422),
            ({"limit": 0}, 422),
            ({"limit": 501}, 422),
            ({"batch_id": "x"}, 422),
            ({"error_code": "x"}, 422),
            ({"accepted_from": "yesterday"}, 422),
            ({"accepted_from": "2026-01-01T00:00:00"}, 422),
            ({"host": "\x00"}, 422),
            ({"cursor": "x"}, 400),
            ({"cursor": "\x00"}, 400),
            ({"cursor": "MjAyNi0wMS0wMVQwMDowMDowMCB4"}, 400),
        ],
    )
    def test_in_a_list(self, client: httpx.Client, params: dict[str, Any], status: int) -> None:
        answer = client.get("/api/v1/stop-tasks", params=params)
        assert answer.status_code == status
        assert answer.json()["detail"]

    @pytest.mark.parametrize("path", ["batches", "stop-tasks"])
    def test_in_a_path(self, client: httpx.Client, path: str) -> None:
        assert client.get(f"/api/v1/{path}/not-a-uuid").status_code == 422

    @pytest.mark.parametrize(
        "path", ["batches", "stop-tasks", f"batches/{uuid4()}", "stop-tasks/not-a-uuid"]
    )
    def test_no_key(self, anonymous: httpx.Client, path: str) -> None:
        assert anonymous.get(f"/api/v1/{path}").status_code == 401


class TestUnexpected:
    def test_no_traceback_and_no_details(
        self, client: httpx.Client, world: World, clean: Engine
    ) -> None:
        with transaction(clean) as session:
            session.execute(text("ALTER TABLE stop_tasks RENAME TO gone"))
        try:
            answer = client.post("/api/v1/cvms/batch-stop", json={"cvm_ids": world.ours[:1]})
        finally:
            with transaction(clean) as session:
                session.execute(text("ALTER TABLE gone RENAME TO stop_tasks"))
        assert answer.status_code == 500
        assert "internal error" in answer.json()["detail"]
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        assert "gone" not in answer.text
