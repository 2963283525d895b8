"""The limit of an API key, over real HTTP."""

from __future__ import annotations

from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import func, select

from api.main import create_app
from shared.database import transaction
from shared.tables import StopBatch
from tests.support.ports import free_port
from tests.support.served_api import served_api
from tests.support.silent_server import silent_server


if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from shared.settings import Settings
    from tests.api.conftest import World

PATH = "/api/v1/cvms/batch-stop"
OTHER_PATHS = ("/api/v1/batches", "/api/v1/stop-tasks")
LIMIT = 3


@pytest.fixture(scope="module")
def limited_url(api_settings: Settings) -> Iterator[str]:
    """Serve an API with a limit that is soon used up."""
    limited = api_settings.model_copy(update={"rate_limit": f"{LIMIT}/hour"})
    with served_api(create_app(limited)) as url:
        yield url


@pytest.fixture
def limited(limited_url: str, world: World) -> Iterator[httpx.Client]:
    """Talk to it as the member."""
    with httpx.Client(base_url=limited_url, headers={"X-API-Key": world.member_key}) as made:
        yield made


@pytest.fixture
def used_up(limited: httpx.Client) -> httpx.Client:
    """Have made all requests that the member's key may make."""
    for _ in range(LIMIT):
        assert stop(limited, []).status_code == 200
    return limited


def stop(client: httpx.Client, ids: list[str], **kwargs: Any) -> httpx.Response:
    return client.post(PATH, json={"cvm_ids": ids}, **kwargs)


def count_batches(engine: Engine) -> int:
    with transaction(engine) as session:
        return session.scalar(select(func.count()).select_from(StopBatch)) or 0


def test_one_too_many(used_up: httpx.Client, world: World, clean: Engine) -> None:
    before = count_batches(clean)
    answer = stop(used_up, world.ours[:1])
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 3600
    body = answer.json()
    assert set(body) == {"detail", "error"}
    assert body["error"] == "rate_limited"
    assert f"send it again in {answer.headers['retry-after']} s" in body["detail"]
    assert answer.headers["x-request-id"]
    assert count_batches(clean) == before


def test_all_routes_with_a_key_share_it(limited: httpx.Client) -> None:
    stop(limited, [])
    for path in OTHER_PATHS:
        assert limited.get(path).status_code == 200
    for path in OTHER_PATHS:
        answer = limited.get(path)
        assert (answer.status_code, answer.json()["error"]) == (429, "rate_limited")
    assert stop(limited, []).status_code == 429


def test_all_api_processes_share_it(
    used_up: httpx.Client, api_settings: Settings, world: World
) -> None:
    other = create_app(api_settings.model_copy(update={"rate_limit": f"{LIMIT}/hour"}))
    with served_api(other) as url:
        headers = {"X-API-Key": world.member_key}
        assert httpx.get(f"{url}{OTHER_PATHS[0]}", headers=headers).status_code == 429
    assert stop(used_up, []).status_code == 429


def test_another_key_is_not_affected(used_up: httpx.Client, world: World) -> None:
    headers = {"X-API-Key": world.admin_key}
    assert stop(used_up, [], headers=headers).status_code == 200
    assert stop(used_up, []).status_code == 429


def test_a_bearer_key_is_the_same_key(used_up: httpx.Client, world: World) -> None:
    del used_up.headers["X-API-Key"]
    headers = {"Authorization": f"Bearer {world.member_key}"}
    assert stop(used_up, [], headers=headers).status_code == 429


def test_without_a_valid_key_it_is_401(used_up: httpx.Client, world: World) -> None:
    for api_key in ("", "cvmstop_nonsense", world.revoked_key):
        for _ in range(LIMIT + 1):
            answer = stop(used_up, [], headers={"X-API-Key": api_key})
            assert answer.status_code == 401


def test_health_has_none(used_up: httpx.Client) -> None:
    for path in ("/health/live", "/health/ready"):
        for _ in range(LIMIT + 1):
            assert used_up.get(path).status_code == 200


def test_the_body_is_not_waited_for(used_up: httpx.Client, limited_url: str, world: World) -> None:
    connection = HTTPConnection(httpx.URL(limited_url).netloc.decode(), timeout=30)
    connection.putrequest("POST", PATH)
    connection.putheader("X-API-Key", world.member_key)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", "1000")
    connection.endheaders()
    assert connection.getresponse().status == 429
    connection.close()
    assert stop(used_up, ["x" * 70_000]).status_code == 429


class TestABrokerThatIsAway:
    @pytest.fixture(autouse=True)
    def _long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shared.absence.AWAY", 3600)

    @staticmethod
    def _stop_all(settings: Settings, world: World, url: str) -> None:
        changes = {"broker_url": SecretStr(url), "broker_timeout": 0.2, "rate_limit": "1/hour"}
        with (
            served_api(create_app(settings.model_copy(update=changes))) as api_url,
            httpx.Client(base_url=api_url, headers={"X-API-Key": world.member_key}) as client,
        ):
            for cvm_id in world.ours[: LIMIT + 1]:
                answer = stop(client, [cvm_id])
                assert (answer.status_code, answer.json()["stopped"]) == (200, 1)

    def test_dead(self, settings: Settings, world: World) -> None:
        self._stop_all(settings, world, f"redis://127.0.0.1:{free_port()}/0")

    def test_frozen_is_waited_for_once_by_all(self, settings: Settings, world: World) -> None:
        """Not for the limit and for sending, and not by each request (I7)."""
        with silent_server() as broker:
            self._stop_all(settings, world, broker.url)
            assert broker.connections() == 1


def test_it_is_documented_but_not_where_the_specification_rules(limited: httpx.Client) -> None:
    paths = limited.get("/openapi.json").json()["paths"]
    assert "429" not in paths[PATH]["post"]["responses"]
    for path in (*OTHER_PATHS, "/api/v1/batches/{batch_id}", "/api/v1/stop-tasks/{stop_task_id}"):
        assert "Retry-After" in paths[path]["get"]["responses"]["429"]["headers"]
    for path in ("/health/live", "/health/ready"):
        assert "429" not in paths[path]["get"]["responses"]
