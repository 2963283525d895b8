"""Running commands as the shell does, in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app


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
