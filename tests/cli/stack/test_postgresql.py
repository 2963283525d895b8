from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import psycopg
import pytest
from pydantic import SecretStr

from cli.stack import postgresql
from shared.exceptions import StackError
from tests.support.ports import free_port
from tests.support.postgresql import running_postgresql


if TYPE_CHECKING:
    from pathlib import Path


def test_a_server_with_a_password(tmp_path: Path) -> None:
    password = SecretStr("p@ss/w:rd%")
    with running_postgresql(tmp_path, password=password) as server:
        assert postgresql.is_ready(server.port, password=password)
        assert not postgresql.is_ready(server.port)
        assert not postgresql.is_ready(server.port, password=SecretStr("wrong"))
        for _ in range(2):
            postgresql.ensure_database(server.port, "cvmstop", password=password)
        url = postgresql.database_url(server.port, "cvmstop", password=password)
        with psycopg.connect(url.get_secret_value()) as connection:
            assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)
            assert connection.execute("SHOW fsync").fetchone() == ("off",)
            connection.execute("CREATE TABLE kept ()")
    # Again on the same data: what is there stays, and `initialise` changes nothing.
    with (
        running_postgresql(tmp_path, password=password) as server,
        psycopg.connect(
            postgresql.database_url(server.port, "cvmstop", password=password).get_secret_value()
        ) as connection,
    ):
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    assert "p@ss" not in (tmp_path / "postgresql.log").read_text()


def test_what_was_left_unfinished_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "data.unfinished").mkdir()
    (tmp_path / "data.unfinished" / "PG_VERSION").write_text("18")
    postgresql.initialise(tmp_path / "data")
    assert (tmp_path / "data" / "PG_VERSION").exists()
    assert not (tmp_path / "data.unfinished").exists()


def test_a_directory_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious").touch()
    with pytest.raises(StackError, match="is not empty, and no PostgreSQL data directory"):
        postgresql.initialise(tmp_path / "data")
    assert (tmp_path / "data" / "precious").exists()


def test_as_root_without_setpriv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(StackError, match="`setpriv` is not there"):
        postgresql.server_command(tmp_path, free_port())


def test_initdb_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="initdb: no space left\n")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: failed)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(StackError, match="no space left"):
        postgresql.initialise(tmp_path / "data")
