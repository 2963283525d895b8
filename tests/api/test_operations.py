"""Another control plane says that it works on a CVM."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select, update

from shared.database import transaction
from shared.tables import Cvm, CvmOperation, StopTask
from tests.workers.test_dispatcher import RecordingBroker
from workers.dispatcher import run_round


if TYPE_CHECKING:
    import httpx
    from sqlalchemy import Engine

    from shared.settings import Settings
    from tests.api.conftest import World


def path(cvm_id: str) -> str:
    return f"/api/v1/cvms/{cvm_id}/operation"


def is_in_progress(engine: Engine, cvm_id: str) -> bool:
    with transaction(engine) as session:
        return session.scalars(select(Cvm.in_progress).where(Cvm.hash_id == cvm_id)).one()


def stop(http: httpx.Client, *cvm_ids: str) -> dict[str, Any]:
    answer = http.post("/api/v1/cvms/batch-stop", json={"cvm_ids": cvm_ids})
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def put(http: httpx.Client, cvm_id: str, **body: Any) -> dict[str, Any]:
    answer = http.put(path(cvm_id), json={"name": "resize", **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def seconds(operation: dict[str, Any]) -> float:
    """Give how long it lasts from its start."""
    times = (datetime.fromisoformat(operation[name]) for name in ("started_at", "expires_at"))
    started, expires = times
    return (expires - started).total_seconds()


def make_expire(engine: Engine) -> None:
    """Let the time of every operation be over."""
    with transaction(engine) as session:
        session.execute(update(CvmOperation).values(expires_at=func.now() - timedelta(seconds=1)))


class TestPut:
    def test_a_cvm_with_an_operation_is_skipped(
        self, admin: httpx.Client, client: httpx.Client, world: World
    ) -> None:
        operation = put(admin, world.ours[0])
        assert (operation["cvm_id"], operation["name"]) == (world.ours[0], "resize")
        assert operation["user"] == "root"
        assert seconds(operation) == pytest.approx(3600, abs=1)
        assert stop(client, *world.ours[:2]) == {
            "total": 2,
            "stopped": 1,
            "skipped": 1,
            "errors": [],
        }

    def test_of_any_workspace_without_a_vm_and_rented(
        self, admin: httpx.Client, world: World, clean: Engine
    ) -> None:
        for cvm_id in (world.theirs[0], world.without_vm, world.rented):
            put(admin, cvm_id)
            assert is_in_progress(clean, cvm_id)

    def test_again_renews_and_another_name_replaces(
        self, admin: httpx.Client, world: World, clean: Engine
    ) -> None:
        first = put(admin, world.ours[0], expires_in=60)
        again = put(admin, world.ours[0], expires_in=86_400)
        assert again["started_at"] == first["started_at"]
        assert again["expires_at"] > first["expires_at"]
        other = put(admin, world.ours[0], name="move", expires_in=1)
        assert other["started_at"] > first["started_at"]
        assert other["expires_at"] < again["expires_at"]
        with transaction(clean) as session:
            assert session.scalars(select(CvmOperation.name)).all() == ["move"]

    def test_one_that_had_expired_begins_anew(
        self, admin: httpx.Client, world: World, clean: Engine
    ) -> None:
        first = put(admin, world.ours[0])
        make_expire(clean)
        assert put(admin, world.ours[0])["started_at"] > first["started_at"]

    def test_not_while_a_stop_is_open(
        self, admin: httpx.Client, client: httpx.Client, world: World, clean: Engine
    ) -> None:
        stop(client, world.ours[0])
        answer = admin.put(path(world.ours[0]), json={"name": "resize"})
        assert (answer.status_code, answer.json()["error"]) == (409, "stop_in_progress")
        assert f"a stop is open on {world.ours[0]}" in answer.json()["detail"]
        with transaction(clean) as session:
            assert session.scalars(select(CvmOperation)).all() == []

    def test_again_after_the_stop_has_ended(
        self, admin: httpx.Client, client: httpx.Client, world: World, clean: Engine
    ) -> None:
        stop(client, world.ours[0])
        with transaction(clean) as session:
            session.execute(update(StopTask).values(state="failed", finished_at=func.now()))
            session.execute(update(Cvm).values(in_progress=False))
        put(admin, world.ours[0])

    @pytest.mark.parametrize("method", ["PUT", "DELETE"])
    @pytest.mark.parametrize("cvm_id", ["cvm_none", "x" * 300, "%F0%9F%92%A5"])
    def test_an_unknown_cvm(self, admin: httpx.Client, method: str, cvm_id: str) -> None:
        body = {"name": "resize"} if method == "PUT" else None
        answer = admin.request(method, path(cvm_id), json=body)
        assert (answer.status_code, answer.json()["error"]) == (404, "not_found")
        assert answer.json()["detail"] == "CVM not found"

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"name": ""},
            {"name": "x" * 101},
            {"name": "two\nlines"},
            {"name": "\x00"},
            {"name": "resize", "expires_in": 0},
            {"name": "resize", "expires_in": 86_401},
            {"name": "resize", "expires_in": 1.5},
            {"name": "resize", "expires_in": True},
            {"name": "resize", "expires_in": "60"},
            {"name": "resize", "expires": 60},
        ],
    )
    def test_what_cannot_be_taken(
        self, admin: httpx.Client, world: World, clean: Engine, body: dict[str, Any]
    ) -> None:
        assert admin.put(path(world.ours[0]), json=body).status_code == 422
        assert not is_in_progress(clean, world.ours[0])

    def test_a_body_that_is_wrong_does_not_come_before_the_key(
        self, client: httpx.Client, world: World
    ) -> None:
        answer = client.put(path(world.ours[0]), content=b"{", headers={"Content-Type": "text/x"})
        assert (answer.status_code, answer.json()["error"]) == (403, "admin_only")


class TestDelete:
    def test_the_cvm_can_be_stopped_again(
        self, admin: httpx.Client, client: httpx.Client, world: World
    ) -> None:
        put(admin, world.ours[0])
        answer = admin.delete(path(world.ours[0]))
        assert (answer.status_code, answer.content) == (204, b"")
        assert stop(client, world.ours[0])["stopped"] == 1

    def test_again_is_no_error(self, admin: httpx.Client, world: World, clean: Engine) -> None:
        for _ in range(2):
            assert admin.delete(path(world.ours[0])).status_code == 204
        assert not is_in_progress(clean, world.ours[0])

    def test_a_stop_is_left_alone(
        self, admin: httpx.Client, client: httpx.Client, world: World, clean: Engine
    ) -> None:
        stop(client, world.ours[0])
        assert admin.delete(path(world.ours[0])).status_code == 204
        assert is_in_progress(clean, world.ours[0])


class TestExpiry:
    def test_the_dispatcher_ends_it(
        self,
        admin: httpx.Client,
        client: httpx.Client,
        world: World,
        clean: Engine,
        settings: Settings,
    ) -> None:
        for cvm_id in world.ours[:3]:
            put(admin, cvm_id)
        make_expire(clean)
        put(admin, world.ours[2])
        assert run_round(clean, RecordingBroker(), settings).ended == 2
        assert run_round(clean, RecordingBroker(), settings).ended == 0
        assert stop(client, *world.ours[:3])["stopped"] == 2
        assert is_in_progress(clean, world.ours[2])


@pytest.mark.parametrize("method", ["OPTIONS", "GET", "POST", "PATCH"])
def test_both_methods_are_told_to_who_takes_another(
    anonymous: httpx.Client, world: World, method: str
) -> None:
    answer = anonymous.request(method, path(world.ours[0]))
    assert answer.status_code == 405
    assert answer.json() == {"detail": "Method Not Allowed"}
    assert answer.headers["allow"] == "DELETE, PUT"


def test_a_body_that_is_too_large(admin: httpx.Client, world: World) -> None:
    assert admin.put(path(world.ours[0]), json={"name": "x" * 70_000}).status_code == 413
