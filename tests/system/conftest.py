"""One stack for all system tests, with 200 CVMs on three simulated hosts.

It is shared: a test leaves it in working order, and takes no CVM's state for granted.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import psycopg
import pytest
from redis import Redis

from tests.support import leaks
from tests.system.running_stack import RunningStack, started_up


if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    directory = tmp_path_factory.mktemp("system")
    options = ("--simulate", "200")
    with started_up(directory / "stack", *options, output=directory / "up.log") as (running, _):
        yield running
        assert not _leaked(running)


def _leaked(stack: RunningStack) -> list[str]:
    """Look for the stack's secrets in its logs, rows and messages, now that all tests are over."""
    facts, kept = stack.facts, json.loads((stack.root / "secrets.json").read_text())
    names = ("postgresql", "valkey", "flower", "sealing_keys", "webhook_keys")
    secrets = {**kept["api_keys"], **{name: kept[name] for name in names}}
    assert len(secrets) == len(names) + 2
    leaked = leaks.in_files(secrets, (stack.root / "logs").iterdir())
    with psycopg.connect(facts["database_url"]) as connection:
        leaked += leaks.in_rows(secrets, connection)
    with Redis.from_url(facts["broker_url"]) as broker:
        leaked += leaks.in_messages(secrets, broker)
    return leaked
