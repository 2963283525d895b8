"""A worker's metrics on a port of their own."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from pydantic import SecretStr

from tests.support.ports import free_port
from tests.support.scraped import TOKEN, scrape
from workers.metrics_server import serve_metrics


if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.settings import Settings


@pytest.fixture
def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    Counter("seen", "Some.", registry=made).inc(3)
    return made


@contextmanager
def served(registry: CollectorRegistry, settings: Settings, **changed: Any) -> Iterator[str | None]:
    port = free_port()
    chosen = {"metrics_port": port, "metrics_token": SecretStr(TOKEN), **changed}
    server = serve_metrics(registry, settings.model_copy(update=chosen))
    try:
        yield None if server is None else f"http://127.0.0.1:{port}"
    finally:
        if server is not None:
            server.shutdown()
            server.server_close()


def test_who_has_the_token_gets_them(registry: CollectorRegistry, settings: Settings) -> None:
    with served(registry, settings) as url:
        assert url
        assert scrape(url).total("seen_total") == 3
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert httpx.head(f"{url}/metrics", headers=headers).status_code == 200
        assert httpx.get(f"{url}/", headers=headers).status_code == 404
        assert httpx.post(f"{url}/metrics", headers=headers).status_code == 405


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer other"}, {"X-API-Key": TOKEN}])
def test_nobody_else_does(
    registry: CollectorRegistry, settings: Settings, headers: dict[str, str]
) -> None:
    with served(registry, settings) as url:
        answer = httpx.get(f"{url}/metrics", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.text == ""


@pytest.mark.parametrize("changed", [{"metrics_port": 0}, {"metrics_token": None}])
def test_none_unless_both_are_set(
    registry: CollectorRegistry, settings: Settings, changed: dict[str, Any]
) -> None:
    with served(registry, settings, **changed) as url:
        assert url is None


def test_a_port_that_is_taken_ends_nothing(
    registry: CollectorRegistry, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with served(registry, settings, metrics_port=port) as url:
            assert url is None
    said = capsys.readouterr().out
    assert "no metrics" in said
    assert str(port) in said


def test_who_says_nothing_keeps_nobody_waiting(
    registry: CollectorRegistry, settings: Settings
) -> None:
    with served(registry, settings) as url:
        assert url
        address = ("127.0.0.1", httpx.URL(url).port or 0)
        silent = [socket.create_connection(address) for _ in range(20)]
        assert scrape(url).total("seen_total") == 3
        for each in silent:
            each.close()
