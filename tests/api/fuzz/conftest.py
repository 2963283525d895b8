"""How many cases, from which seed, asked by whom: `pytest tests/api/fuzz` (`make fuzz`)."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig

from shared.database import transaction
from shared.sealing import new_sealing_key
from tests.support.api_process import api_process
from tests.support.seeds import (
    make_cvm,
    make_delivery,
    make_ended_stop,
    make_host,
    make_key,
    make_user,
    make_webhook,
    make_workspace,
)


if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemathesis.schemas import BaseSchema
    from sqlalchemy import Engine

    from shared.settings import Settings

CASES = 20_000
"""Cases in all, at least. Source: the issue that asked for them."""

SEEDS = 2**32

FREE_OPERATIONS = 21
"""Operations with parameters or a body: the others have a handful of cases each, and no more."""

SHARES = {"member": 0.6, "admin": 0.25, "unknown": 0.1, "nobody": 0.05}
"""Who asks how many of them. Without a valid key nothing is looked at, so that few will do."""

WITH_VALID_KEY = {"member", "admin"}

URLS = ["https://127.0.0.1:8443/", "https://10.0.0.1/", "https://[::1]/x?y", "https://a:b@c/"]
"""For webhooks: one that may be taken, and some that may not. Made-up ones begin like none."""

NASTY = ["\x00", "a\x00b", "\x1b[2J", "\u202e", "%00", "../..", "' OR 1=1 --", "\U0001f4a5" * 200]
"""Texts that random ones are not often enough: for databases, terminals, paths, and lengths."""


@dataclass
class Tally:
    """What was asked so far."""

    seed: int
    wanted: int
    operations: set[str] = field(default_factory=set)
    cases: int = 0
    statuses: dict[int, int] = field(default_factory=dict)

    def add(self, operation: str, status: int) -> None:
        self.cases += 1
        self.operations.add(operation)
        self.statuses[status] = self.statuses.get(status, 0) + 1


TALLY = pytest.StashKey[Tally]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz")
    group.addoption("--fuzz-seed", type=int, help="of an earlier run; a new one when not given")
    group.addoption("--fuzz-cases", type=int, default=CASES, help=f"at least; {CASES:,}")


def pytest_configure(config: pytest.Config) -> None:
    given = config.getoption("--fuzz-seed")
    seed = random.SystemRandom().randrange(SEEDS) if given is None else given
    config.stash[TALLY] = Tally(seed, config.getoption("--fuzz-cases"))


def pytest_report_header(config: pytest.Config) -> str:
    tally = config.stash[TALLY]
    return f"fuzz: at least {tally.wanted:,} cases, --fuzz-seed={tally.seed}"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    tally = config.stash[TALLY]
    found = "no 5xx, every answer as documented" if exitstatus == 0 else "FAILED, see above"
    counts = ", ".join(f"{count:,} x {status}" for status, count in sorted(tally.statuses.items()))
    terminalreporter.write_line(
        f"fuzz: {tally.cases:,} cases over {len(tally.operations)} operations,"
        f" seed {tally.seed}: {found} ({counts})"
    )


@pytest.fixture(scope="session")
def tally(pytestconfig: pytest.Config) -> Tally:
    return pytestconfig.stash[TALLY]


@pytest.fixture(scope="session", autouse=True)
def _enough(request: pytest.FixtureRequest, tally: Tally) -> Iterator[None]:
    """Fail when a change of the document or of Schemathesis makes it try less."""
    yield
    if not request.session.testsfailed:
        assert tally.cases >= tally.wanted, f"only {tally.cases} cases of {tally.wanted}"


@dataclass(frozen=True, kw_only=True)
class Fuzzed:
    """A served API with things to hit."""

    url: str
    keys: dict[str, str | None]
    """By who asks; None to send no key."""
    values: dict[str, list[str]]
    """By a parameter's name: some that are there, of both workspaces."""


@pytest.fixture(scope="module")
def fuzzed(
    api_settings: Settings, engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fuzzed]:
    """Fill the database, and serve."""
    with transaction(engine) as session:
        ours, theirs = make_workspace(session, "fuzz"), make_workspace(session, "fuzz-other")
        host = make_host(session, name="fuzz-host")
        member = make_user(session, ours, name="fuzz-member")
        admin = make_user(session, name="fuzz-admin", admin=True)
        member_row, member_key = make_key(session, member, ours)
        admin_key = make_key(session, admin, theirs)[1]
        cvms = [make_cvm(session, place, host) for place in (ours, theirs) for _ in range(100)]
        webhooks = [make_webhook(session, ours, member) for _ in range(5)]
        deliveries = [make_delivery(session, webhook) for webhook in webhooks]
        ended = [make_ended_stop(session, cvm, member_row) for cvm in (*cvms[:5], *cvms[-5:])]
        values = {
            "cvm_id": [cvm.hash_id for cvm in cvms],
            "host": [host.name],
            "workspace": [ours.name, theirs.name],
            "batch_id": [str(task.batch_id) for task in ended],
            "stop_task_id": [str(task.id) for task in ended],
            "webhook_id": [str(webhook.id) for webhook in webhooks],
            "delivery_id": [str(delivery.id) for delivery in deliveries],
        }
    keys = {"member": member_key, "admin": admin_key, "unknown": "cvmstop_nonsense", "nobody": None}
    # The limit for each key would refuse most of it.
    further = {
        "rate_limit": "",
        "webhook_keys": new_sealing_key(),
        "webhook_allowed_networks": "127.0.0.0/8",
        "webhook_limit": "50",
    }
    with api_process(api_settings, tmp_path_factory.mktemp("fuzz"), **further) as api:
        headers = {"X-API-Key": member_key}
        page = httpx.get(f"{api.url}/api/v1/stop-tasks", params={"limit": 3}, headers=headers)
        values["cursor"] = [page.json()["next_cursor"]]
        yield Fuzzed(url=api.url, keys=keys, values=values)
        assert "Traceback" not in api.log.read_text()


@pytest.fixture(scope="module", params=SHARES)
def who(request: pytest.FixtureRequest) -> str:
    """Say who asks."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def schema(fuzzed: Fuzzed, who: str, tally: Tally) -> BaseSchema:
    """Read the document that is served, and say how it is tried."""
    examples = max(1, round(tally.wanted * SHARES[who] / FREE_OPERATIONS))
    config: dict[str, Any] = {
        "seed": tally.seed + list(SHARES).index(who),
        "generation": {
            "mode": "all",
            "max-examples": examples,
            "database": "none",
            # A bad key beside a good one changes nothing.
            "with-security-parameters": who not in WITH_VALID_KEY,
        },
        "dictionaries": {
            **{name: {"values": [*known, *NASTY]} for name, known in fuzzed.values.items()},
            "url": {"values": [*URLS, *NASTY]},
        },
        "parameters": {
            **{name: {"dictionary": name, "probability": 0.3} for name in fuzzed.values},
            "body.url": {"dictionary": "url", "probability": 0.5},
            "body.cvm_ids[*]": {"dictionary": "cvm_id", "probability": 0.3},
        },
        # Health checks judge how quickly cases are made, which other processes decide here.
        "suppress-health-check": ["all"],
    }
    return schemathesis.openapi.from_url(
        f"{fuzzed.url}/openapi.json", config=SchemathesisConfig.from_dict(config)
    )
