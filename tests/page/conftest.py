"""A whole stack, and Chromium in front of it. Every page's errors fail the test that opened it."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest
from playwright.sync_api import sync_playwright

from tests.page.visitor import Visitor
from tests.support.waiting import eventually
from tests.system.conftest import _leaked
from tests.system.running_stack import RunningStack, started_up


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser

CHROMIUM = "/usr/bin/chromium"
"""Debian's. Playwright brings one of its own, which is not fetched."""

SCREENSHOTS = Path(__file__).parent / "screenshots"

SCHEMES: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "dark"},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "has_touch": True,
        "is_mobile": True,
        "color_scheme": "light",
    },
}
"""How pages are looked at."""

BROKEN_HOST = 1
"""Number of the simulated host that refuses its credentials."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say where the screenshots are."""
    taken = sorted(SCREENSHOTS.glob("*.png"))
    terminalreporter.write_line(f"{len(taken)} screenshots are in {SCREENSHOTS}")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    directory = tmp_path_factory.mktemp("page")
    options = ("--simulate", "480")
    with pytest.MonkeyPatch.context() as patch:
        # What fails is to have failed soon.
        patch.setenv("CVMSTOP_STOP_MAX_FAILURES", "2")
        patch.setenv("CVMSTOP_RETRY_BACKOFF", "0.2")
        with started_up(directory / "stack", *options, output=directory / "up.log") as (running, _):
            yield running
            # Keys went through forms, and cookies through requests.
            assert not _leaked(running)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    # As root there is no sandbox to be had; the pages are our own.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Give the directory for screenshots, emptied."""
    SCREENSHOTS.mkdir(exist_ok=True)
    for old in SCREENSHOTS.glob("*.png"):
        old.unlink()
    return SCREENSHOTS


@pytest.fixture(scope="session")
def signed_in(stack: RunningStack) -> Callable[[str], list[Any]]:
    """Give the cookies of a session by the name of its key; sign in but once for all tests."""
    kept: dict[str, list[Any]] = {}

    def cookies_of(key: str) -> list[Any]:
        if key not in kept:
            url = stack.facts["api_url"]
            answer = httpx.post(
                f"{url}/sign-in", data={"api_key": stack.facts[key]}, headers={"Origin": url}
            )
            assert answer.status_code == 303
            kept[key] = [
                {"name": name, "value": value, "url": url, "httpOnly": True, "sameSite": "Strict"}
                for name, value in answer.cookies.items()
            ]
        return kept[key]

    return cookies_of


@pytest.fixture
def open_visitor(
    stack: RunningStack, chromium: Browser, signed_in: Callable[[str], list[Any]]
) -> Iterator[Callable[..., Visitor]]:
    """Open a window for somebody: with the name of a key, signed in."""
    visitors: list[Visitor] = []

    def open_one(key: str | None = None, **options: Any) -> Visitor:
        context = chromium.new_context(base_url=stack.facts["api_url"], **options)
        if key is not None:
            context.add_cookies(signed_in(key))
        visitors.append(Visitor(context))
        return visitors[-1]

    yield open_one
    problems = [problem for visitor in visitors for problem in visitor.problems]
    for visitor in visitors:
        visitor.context.close()
    assert not problems


class Hosts:
    """The simulated hosts, by their number."""

    def __init__(self, stack: RunningStack) -> None:
        self._stack = stack

    def change(self, number: int, **behaviour: Any) -> None:
        """Change how one behaves."""
        url = self._stack.facts["hosts"][number]["url"]
        httpx.patch(f"{url}/simulator/host", json=behaviour).raise_for_status()

    @contextmanager
    def broken(self, number: int = BROKEN_HOST) -> Iterator[None]:
        """Let one refuse its credentials while the block runs."""
        self.change(number, faults=[{"kind": "unauthorized"}])
        try:
            yield
        finally:
            self.change(number, faults=[])

    def cvms(self, number: int, workspace: str = "acme") -> list[str]:
        """Give the ids of a workspace's CVMs on one that nothing was done with yet."""
        name = self._stack.facts["hosts"][number]["name"]
        query = (
            "SELECT hash_id FROM cvms JOIN vm_hosts ON vm_hosts.id = vm_host_id"
            " JOIN workspaces ON workspaces.id = workspace_id"
            " WHERE vm_hosts.name = %s AND workspaces.name = %s AND NOT in_progress"
            " AND NOT EXISTS (SELECT FROM stop_tasks WHERE cvm_id = cvms.id) ORDER BY hash_id"
        )
        return [row[0] for row in self._stack.rows(query, name, workspace)]


@pytest.fixture(scope="session")
def hosts(stack: RunningStack) -> Hosts:
    return Hosts(stack)


@pytest.fixture(scope="session")
def eventful(stack: RunningStack, hosts: Hosts) -> dict[str, str]:
    """Let much have happened: gives ids of what is worth looking at.

    Failures for several reasons, a host that nobody reaches, a CVM that drifted, retries, and stops
    that still go on.
    """
    facts = stack.facts
    with psycopg.connect(facts["database_url"]) as connection:
        connection.execute(
            "INSERT INTO vm_hosts (name, driver, address, max_concurrent_stops)"
            " VALUES ('node-7', 'dstack', 'http://127.0.0.1:1', 4)"
        )
        connection.execute(
            "INSERT INTO cvms (hash_id, name, workspace_id, vm_host_id, vm_uuid, status)"
            " SELECT 'cvm_node7x' || n, 'billing ' || n, w.id, h.id, gen_random_uuid(), 'running'"
            " FROM generate_series(1, 6) n, workspaces w, vm_hosts h"
            " WHERE w.name = 'acme' AND h.name = 'node-7'"
        )
    drifted = hosts.cvms(0)[:2]
    stack.wait_until_ended(stack.batch_stop(drifted)[0])
    with hosts.broken():
        for start in (0, 12):
            ids = [*hosts.cvms(0)[:12], *hosts.cvms(1)[start : start + 12], *hosts.cvms(2)[:8]]
            stack.wait_until_ended(stack.batch_stop([*ids, "cvm_of_nobody"])[0])
    stack.start_vms(drifted[:1])
    hosts.change(2, faults=[{"kind": "error", "text": "disk full"}])
    failed, _ = stack.batch_stop([*hosts.cvms(2)[:5], *hosts.cvms(0)[:30]])
    stack.wait_until_ended(failed)
    hosts.change(2, faults=[])
    with stack.api() as client:
        retried = client.post(f"/api/v1/batches/{failed}/retry").json()["batch_id"]
        stack.wait_until_ended(retried)
        refused = client.get(
            "/api/v1/stop-tasks", params={"error_code": "credentials_refused", "limit": 1}
        ).json()["items"][0]
    drift = "SELECT count(*) FROM cvm_drifts WHERE ended_at IS NULL"
    eventually(lambda: stack.rows(drift)[0][0])
    unreachable, _ = stack.batch_stop([f"cvm_node7x{n}" for n in range(1, 7)])
    eventually(
        lambda: stack.rows("SELECT 1 FROM vm_hosts WHERE breaker_open_until > clock_timestamp()")
    )
    return {
        "batch": refused["batch_id"],
        "failed": failed,
        "open": unreachable,
        "stop": refused["id"],
        "cvm": drifted[0],
    }


@pytest.fixture
def slow_hosts(hosts: Hosts) -> Iterator[None]:
    """Let stops take long enough to be watched."""
    for number in range(3):
        hosts.change(number, stop_seconds=1.5)
    yield
    for number in range(3):
        hosts.change(number, stop_seconds=0.1)


@pytest.fixture
def batches_of_form() -> Callable[[str], str]:
    """Read a batch's id from its page's address."""

    def read(url: str) -> str:
        found = re.search(r"/batches/([0-9a-f-]{36})", url)
        assert found, url
        return found[1]

    return read
