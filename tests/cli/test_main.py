from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
import typer
from sqlalchemy import text

from cli.edge import failures_told
from cli.main import COMMANDS, load_command
from shared.exceptions import NotFoundError
from tests.support.ports import free_port


if TYPE_CHECKING:
    from sqlalchemy import Engine

    from shared.settings import Settings
    from tests.cli.conftest import Cvmstop
    from tests.support.postgresql import PostgresqlServer

HEAVY = ("sqlalchemy", "alembic", "celery", "httpcore", "fastapi", "pydantic", "psycopg")


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom cli.main import main\n"
        "sys.argv = ['cvmstop', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1] == "[]"
    assert all(name in done.stdout for name in COMMANDS)


def test_version(cvmstop_without_settings: Cvmstop) -> None:
    assert cvmstop_without_settings.must("--version").out.startswith("cvmstop ")


@pytest.mark.parametrize(
    "name", [name for name, place in COMMANDS.items() if find_spec(place.module)]
)
def test_every_command_loads_and_has_help(cvmstop_without_settings: Cvmstop, name: str) -> None:
    assert "Usage: cvmstop" in cvmstop_without_settings.must(name, "--help").out
    assert load_command(name).help


def test_misspelt_command(cvmstop_without_settings: Cvmstop) -> None:
    outcome = cvmstop_without_settings("hots")
    assert outcome.status == 2
    assert "Did you mean 'hosts'?" in outcome.err


def test_settings_missing(cvmstop_without_settings: Cvmstop) -> None:
    outcome = cvmstop_without_settings("workspaces", "list")
    assert outcome.status == 1
    assert outcome.err.startswith("cvmstop: CVMSTOP_DATABASE_URL is not set ")
    assert outcome.err.count("\n") == 1


def test_database_url_is_none(cvmstop: Cvmstop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVMSTOP_DATABASE_URL", "secret nonsense")
    outcome = cvmstop("workspaces", "list")
    assert outcome.status == 1
    assert "CVMSTOP_DATABASE_URL: not a URL" in outcome.err
    assert "nonsense" not in outcome.err


@pytest.mark.parametrize("command", [("users", "list"), ("migrate",), ("migrate", "--check")])
def test_database_down(
    cvmstop: Cvmstop, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CVMSTOP_DATABASE_URL", f"postgresql://a:secret@127.0.0.1:{free_port()}/b")
    outcome = cvmstop(*command)
    assert outcome.status == 1
    assert outcome.err.startswith("cvmstop: the database does not answer (")
    assert "Connection refused" in outcome.err
    assert "secret" not in outcome.err
    assert outcome.err.count("\n") == 1


def test_database_without_schema(
    cvmstop: Cvmstop, monkeypatch: pytest.MonkeyPatch, postgresql: PostgresqlServer
) -> None:
    url = postgresql.create_database(f"without_{uuid4().hex}")
    monkeypatch.setenv("CVMSTOP_DATABASE_URL", url.get_secret_value())
    outcome = cvmstop("workspaces", "create", "w")
    assert outcome.status == 1
    assert outcome.err == "cvmstop: the database has no cvmstop schema yet: run `cvmstop migrate`\n"


def test_database_refuses(
    cvmstop: Cvmstop, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role that may not read what it has to."""
    with engine.begin() as connection:
        connection.execute(text("DROP ROLE IF EXISTS stranger"))
        connection.execute(text("CREATE ROLE stranger LOGIN"))
    url = settings.database_url.get_secret_value().replace("postgres@", "stranger@")
    monkeypatch.setenv("CVMSTOP_DATABASE_URL", url)
    outcome = cvmstop("workspaces", "list")
    assert outcome.status == 1
    assert outcome.err == "cvmstop: permission denied for table workspaces\n"


def test_a_failure_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    msg = "there is none"
    with pytest.raises(typer.Exit) as raised, failures_told():
        raise NotFoundError(msg)
    assert raised.value.exit_code == 1
    assert capsys.readouterr().err == "cvmstop: there is none\n"
