"""`/metrics` of the API: who may read it, what is counted, and what the rows know."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import SecretStr, ValidationError
from sqlalchemy import text

from api.main import create_app
from shared.database import transaction
from shared.settings import MetricsSettings
from tests.support.ports import free_port
from tests.support.scraped import TOKEN, Page, scrape
from tests.support.served_api import served_api


if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from shared.settings import Settings
    from tests.api.conftest import World

REQUESTS = "cvmstop_http_request_duration_seconds_count"


@pytest.fixture
def watched(api_settings: Settings) -> Settings:
    return api_settings.model_copy(update={"metrics_token": SecretStr(TOKEN)})


@pytest.fixture
def url(watched: Settings) -> Iterator[str]:
    with served_api(create_app(watched)) as made:
        yield made


@pytest.fixture
def http(url: str, world: World) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers={"X-API-Key": world.admin_key}) as made:
        yield made


def stop(http: httpx.Client, *cvm_ids: str, **parameters: Any) -> httpx.Response:
    answer = http.post("/api/v1/cvms/batch-stop", json={"cvm_ids": cvm_ids}, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer


class TestWhoMayRead:
    def test_nobody_unless_there_is_a_token(self, anonymous: httpx.Client) -> None:
        answer = anonymous.get("/metrics")
        assert answer.status_code == 404
        assert "CVMSTOP_METRICS_TOKEN" in answer.json()["detail"]

    @pytest.mark.parametrize(
        "authorization",
        ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"],
    )
    def test_nobody_without_it(self, http: httpx.Client, authorization: str) -> None:
        answer = http.get("/metrics", headers={"Authorization": authorization})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"] == "authentication_required"
        assert "cvmstop_" not in answer.text

    def test_it_is_no_api_key(self, http: httpx.Client, world: World) -> None:
        for header in ({"X-API-Key": TOKEN}, {"Authorization": f"Bearer {TOKEN}"}):
            headers = {"X-API-Key": "", **header}
            assert http.get("/api/v1/batches", headers=headers).status_code == 401
        admins = {"Authorization": f"Bearer {world.admin_key}"}
        assert http.get("/metrics", headers=admins).status_code == 401

    def test_the_schemes_case_does_not_matter(self, http: httpx.Client) -> None:
        answer = http.get("/metrics", headers={"Authorization": f"bearer {TOKEN}"})
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert answer.headers["cache-control"] == "no-store"

    @pytest.mark.parametrize("token", ["short", "sixteen but spaces", "sechzehn-zeichen-ü"])
    def test_a_token_must_be_one(self, token: str) -> None:
        with pytest.raises(ValidationError, match="16 characters"):
            MetricsSettings(metrics_token=SecretStr(token))
        assert MetricsSettings(metrics_token=SecretStr("")).metrics_token is None


class TestWhatIsCounted:
    def test_requests_by_route_and_never_by_path(
        self, url: str, http: httpx.Client, world: World
    ) -> None:
        for path in (f"/api/v1/cvms/{world.ours[0]}", f"/api/v1/cvms/{world.ours[1]}"):
            http.get(path)
        for path in ("/nothing", "/other", "/api/v1/cvms/a/b/c"):
            http.get(path)
        http.request("BREW", "/health/live")
        http.delete("/api/v1/batches")
        page = scrape(url)
        counts = {
            tuple(dict(labels)[name] for name in ("route", "method", "status")): value
            for (name, labels), value in page.values.items()
            if name == REQUESTS
        }
        assert counts == {
            ("/api/v1/cvms/{cvm_id}", "GET", "200"): 2,
            ("other", "GET", "404"): 3,
            ("/health/live", "other", "405"): 1,
            ("/api/v1/batches", "DELETE", "405"): 1,
        }

    def test_accepted_stops_and_their_messages(
        self, url: str, http: httpx.Client, world: World
    ) -> None:
        stop(http, *world.ours[:3], world.busy, "cvm_none")
        stop(http, world.ours[3], dry_run=True)
        page = scrape(url)
        assert page.total("cvmstop_stops_accepted_total") == 3
        assert page.total("cvmstop_stop_messages_sent_total", reason="accepted") == 3
        assert page.total("cvmstop_stop_messages_refused_total") == 0

    def test_canceled_and_retried_stops(self, url: str, http: httpx.Client, world: World) -> None:
        stop(http, *world.ours[:3])
        tasks = http.get("/api/v1/stop-tasks").json()["items"]
        one = f"/api/v1/stop-tasks/{tasks[0]['id']}"
        assert http.post(f"{one}/cancel").status_code == 200
        assert http.post(f"/api/v1/batches/{tasks[0]['batch_id']}/cancel").status_code == 200
        assert http.post(f"{one}/retry").status_code == 200
        page = scrape(url)
        assert page.total("cvmstop_stops_canceled_total") == 3
        assert page.total("cvmstop_stops_accepted_total") == 4
        assert page.total("cvmstop_stop_messages_sent_total", reason="accepted") == 4

    def test_a_broker_that_is_away(self, watched: Settings, world: World) -> None:
        away = SecretStr(f"redis://127.0.0.1:{free_port()}/0")
        app = create_app(watched.model_copy(update={"broker_url": away}))
        with (
            served_api(app) as url,
            httpx.Client(base_url=url, headers={"X-API-Key": world.admin_key}) as http,
        ):
            stop(http, *world.ours[:2])
            page = scrape(url)
        assert page.total("cvmstop_stops_accepted_total") == 2
        assert page.total("cvmstop_stop_messages_sent_total") == 0
        assert page.total("cvmstop_stop_messages_refused_total", reason="accepted") == 2

    def test_series_do_not_grow_with_cvms_and_batches(
        self, url: str, http: httpx.Client, world: World
    ) -> None:
        def ask(*cvm_ids: str) -> None:
            batch = stop(http, *cvm_ids).headers["location"]
            http.get(batch)
            for cvm_id in cvm_ids:
                http.get(f"/api/v1/cvms/{cvm_id}")
            scrape(url)

        ask(world.ours[0])
        before = scrape(url).series()
        for number in range(1, 6):
            ask(*world.ours[number::6])
        page = scrape(url)
        assert page.series() == before
        words = {word for _, labels in page.series("") for _, word in labels}
        assert not [word for word in words if word.startswith("cvm_") or word in {"acme", "globex"}]


class TestWhatTheRowsKnow:
    def test_open_stops_and_the_oldest_due(
        self, url: str, http: httpx.Client, world: World, clean: Engine
    ) -> None:
        stop(http, *world.ours[:5])
        self.change(
            clean,
            "UPDATE stop_tasks SET state = 'confirming', due_at = now() + interval '1 hour'"
            " WHERE id = (SELECT min(id::text)::uuid FROM stop_tasks)",
            "UPDATE stop_tasks SET due_at = now() - interval '100 s'"
            " WHERE id = (SELECT max(id::text)::uuid FROM stop_tasks)",
        )
        page = scrape(url)
        for state, count in {"scheduled": 4, "confirming": 1, "stopping": 0}.items():
            assert page.total("cvmstop_open_stops", host="node-1", state=state) == count
        oldest = page.total("cvmstop_oldest_due_stop_age_seconds", host="node-1")
        assert 100 <= oldest < 3600
        self.change(clean, "UPDATE stop_tasks SET due_at = now() + interval '1 hour'")
        assert scrape(url).total("cvmstop_oldest_due_stop_age_seconds") == 0

    @pytest.mark.parametrize(
        ("until", "state"),
        [("NULL", "closed"), ("now() + interval '1 hour'", "open"), ("now()", "half_open")],
    )
    @pytest.mark.usefixtures("world")
    def test_breakers(self, url: str, clean: Engine, until: str, state: str) -> None:
        self.change(clean, f"UPDATE vm_hosts SET breaker_open_until = {until}")  # noqa: S608 - of this file
        page = scrape(url)
        assert page.total("cvmstop_host_breaker_state", host="node-1", state=state) == 1
        assert page.total("cvmstop_host_breaker_state", host="node-1") == 1

    def test_drift_and_failed_syncs(
        self, url: str, http: httpx.Client, world: World, clean: Engine
    ) -> None:
        page = scrape(url)
        assert page.total("cvmstop_drifted_cvms", host="node-1") == 0
        assert page.total("cvmstop_host_sync_failing", host="node-1") == 0
        stop(http, *world.ours[:3])
        self.change(
            clean,
            "INSERT INTO cvm_drifts (cvm_id, stop_task_id, vm_host_id, noticed_at)"
            " SELECT cvm_id, id, vm_host_id, now() FROM stop_tasks",
            "UPDATE cvm_drifts SET ended_at = now() WHERE id = (SELECT min(id) FROM cvm_drifts)",
            "UPDATE vm_hosts SET sync_error = 'no answer'",
        )
        page = scrape(url)
        assert page.total("cvmstop_drifted_cvms", host="node-1") == 2
        assert page.total("cvmstop_host_sync_failing", host="node-1") == 1

    def test_without_a_database_the_rest_is_there(self, watched: Settings) -> None:
        away = SecretStr(f"postgresql://nobody@127.0.0.1:{free_port()}/none")
        app = create_app(watched.model_copy(update={"database_url": away, "database_timeout": 1.0}))
        transport = httpx.ASGITransport(app=app)  # its lifespan would refuse to start

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=transport, base_url="http://api") as http:
                return await http.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})

        answer = asyncio.run(ask())
        app.state.parts.close()
        page = Page.parse(answer.text)
        assert page.total("cvmstop_database_up") == 0
        assert ("cvmstop_database_up", frozenset()) in page.values
        assert page.total("cvmstop_build_info") == 1
        assert "cvmstop_open_stops" not in page.names

    @staticmethod
    def change(engine: Engine, *statements: str) -> None:
        with transaction(engine) as session:
            for statement in statements:
                session.execute(text(statement))
