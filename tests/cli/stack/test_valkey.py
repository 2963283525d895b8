from __future__ import annotations

import stat
import subprocess
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from redis import Redis

from cli.stack import valkey
from cli.stack.ports import choose_ports, is_free
from tests.support.waiting import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = SecretStr("a-password_1")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[int]:
    directory = tmp_path / 'a "quoted" place'
    directory.mkdir()
    configuration = directory / "valkey.conf"
    (port,) = choose_ports(1)
    valkey.write_configuration(configuration, directory / "data", port=port, password=PASSWORD)
    assert stat.S_IMODE(configuration.stat().st_mode) == 0o600
    process = subprocess.Popen(valkey.server_command(configuration), stdout=subprocess.DEVNULL)
    wait_until(lambda: valkey.is_ready(port, PASSWORD), what="Valkey is ready")
    yield port
    process.terminate()
    process.wait()
    assert not list((directory / "data").iterdir())


def test_takes_what_it_was_given_and_lets_nobody_else_in(server: int) -> None:
    assert not valkey.is_ready(server, SecretStr("another"))
    with Redis.from_url(valkey.broker_url(server, PASSWORD).get_secret_value()) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "no"}
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
    assert not is_free(server)


def test_not_ready_when_nobody_listens() -> None:
    (port,) = choose_ports(1)
    assert not valkey.is_ready(port, PASSWORD)
