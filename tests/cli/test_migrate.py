from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text


if TYPE_CHECKING:
    from tests.cli.conftest import Cvmstop
    from tests.support.postgresql import PostgresqlServer


@pytest.fixture
def blank_url(postgresql: PostgresqlServer) -> str:
    """URL of a database with nothing in it."""
    return postgresql.create_database(f"migrate_{uuid4().hex}").get_secret_value()


def test_from_nothing_then_current(
    cvmstop: Cvmstop, blank_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CVMSTOP_DATABASE_URL", blank_url)
    missing = cvmstop("migrate", "--check")
    assert (missing.status, missing.out) == (1, "")
    assert "run `cvmstop migrate`" in missing.err
    assert cvmstop.must("migrate").out.startswith("migrated from an empty database to revision 0")
    assert cvmstop.must("migrate").out.startswith("the schema is current, at revision 0")
    assert cvmstop.must("migrate", "--check").out.startswith("the schema is current")


def test_a_newer_schema_is_left_alone(
    cvmstop: Cvmstop, blank_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CVMSTOP_DATABASE_URL", blank_url)
    cvmstop.must("migrate")
    engine = create_engine(blank_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    for arguments in (["migrate"], ["migrate", "--check"]):
        outcome = cvmstop(*arguments)
        assert outcome.status == 1
        assert "the database's schema is at revision 9999" in outcome.err


def test_many_at_once(cvmstop: Cvmstop, blank_url: str) -> None:
    del cvmstop
    variables = {**os.environ, "CVMSTOP_DATABASE_URL": blank_url}
    command = [sys.executable, "-c", "from cli.main import main; main()", "migrate"]
    running = [
        subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    ended = [(*process.communicate(timeout=60), process.returncode) for process in running]
    assert [(error, status) for _, error, status in ended] == [(b"", 0)] * 3
