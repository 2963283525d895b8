"""Liveness, readiness, and what is served while a part is away."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from api.errors import RETRY_AFTER
from api.main import create_app
from shared.database import transaction
from shared.engine import make_engine
from shared.exceptions import SchemaError
from tests.support.ports import free_port
from tests.support.served_api import served_api


if TYPE_CHECKING:
    from sqlalchemy import Engine

    from shared.settings import Settings
    from tests.api.conftest import World


def test_live(anonymous: httpx.Client) -> None:
    assert anonymous.get("/health/live").json() == {"status": "live"}


def test_ready(anonymous: httpx.Client) -> None:
    answer = anonymous.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ready",
        "database": "ok",
        "database_schema": "ok",
        "broker": "ok",
    }


def test_without_a_broker_it_is_degraded_and_still_accepts(
    settings: Settings, world: World
) -> None:
    away = settings.model_copy(
        update={"broker_url": SecretStr(f"redis://127.0.0.1:{free_port()}/0")}
    )
    with served_api(create_app(away)) as url, httpx.Client(base_url=url) as client:
        answer = client.get("/health/ready")
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        headers = {"X-API-Key": world.member_key}
        body = {"cvm_ids": world.ours[:50]}
        answer = client.post("/api/v1/cvms/batch-stop", json=body, headers=headers)
        assert answer.status_code == 200
        assert answer.json()["stopped"] == 50


def test_a_schema_that_is_not_current(anonymous: httpx.Client, clean: Engine) -> None:
    with transaction(clean) as session:
        current = session.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        session.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    try:
        answer = anonymous.get("/health/ready")
    finally:
        with transaction(clean) as session:
            session.execute(text("UPDATE alembic_version SET version_num = :it"), {"it": current})
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    assert "cvmstop migrate" in answer.json()["database_schema"]


async def _start(settings: Settings) -> None:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        pass


def test_it_refuses_to_start_on_a_schema_that_is_not_current(
    settings: Settings, clean: Engine
) -> None:
    with transaction(clean) as session:
        session.execute(text("ALTER TABLE alembic_version RENAME TO kept"))
    try:
        with pytest.raises(SchemaError, match="cvmstop migrate"):
            asyncio.run(_start(settings))
    finally:
        with transaction(clean) as session:
            session.execute(text("ALTER TABLE kept RENAME TO alembic_version"))


def test_without_a_database_requests_are_told_to_come_back(settings: Settings) -> None:
    """The API is up when its database goes away."""
    url = SecretStr(f"postgresql://postgres@127.0.0.1:{free_port()}/none")
    nowhere = make_engine(settings.model_copy(update={"database_url": url}), application="tests")
    app = create_app(settings)
    with served_api(app) as address:
        app.state.parts = replace(app.state.parts, engine=nowhere)
        answer = httpx.post(f"{address}/api/v1/cvms/batch-stop", headers={"X-API-Key": "any"})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == RETRY_AFTER
        assert httpx.get(f"{address}/health/ready").status_code == 503
    nowhere.dispose()


@pytest.mark.usefixtures("environment")
def test_an_app_with_settings_of_its_own_sets_up_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else structlog's own way shows the values of local variables: `uvicorn --factory` (I8)."""
    configured: list[object] = []
    monkeypatch.setattr("api.main.configure_logging", configured.append)
    create_app().state.parts.close()
    assert len(configured) == 1
