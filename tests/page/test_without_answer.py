"""A page that gets no answer says since when, and is true again once it gets one."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import pytest


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Locator

    from tests.page.conftest import Hosts
    from tests.page.visitor import Visitor
    from tests.system.running_stack import RunningStack

OLD = re.compile(r"Not up to date: no answer since \d\d:\d\d:\d\d UTC\. Trying again\.")


@pytest.fixture
def freeze(stack: RunningStack) -> Iterator[Callable[[], int]]:
    """Have the API stand still, until the test is over at the latest."""
    yield lambda: stack.signal("api", signal.SIGSTOP)
    stack.signal("api", signal.SIGCONT)


def banner(visitor: Visitor) -> Locator:
    return visitor.page.get_by_role("status").filter(has_text=OLD)


def test_an_api_that_stands_still(
    stack: RunningStack,
    hosts: Hosts,
    open_visitor: Callable[..., Visitor],
    freeze: Callable[[], int],
) -> None:
    """On a batch: its stream says nothing, as it does when there is nothing to say."""
    hosts.change(0, stop_seconds=60)
    try:
        batch_id, _ = stack.batch_stop(hosts.cvms(0)[:2])
        visitor = open_visitor("admin_key")
        visitor.page.goto(f"/batches/{batch_id}")
        visitor.page.locator(".cell").first.wait_for()
        assert banner(visitor).count() == 0
        freeze()
        banner(visitor).wait_for()
        stack.signal("api", signal.SIGCONT)
        banner(visitor).wait_for(state="detached")
    finally:
        hosts.change(0, stop_seconds=0.1)
    visitor.problems.clear()


@pytest.mark.parametrize("status", [429, 503, None])
def test_an_api_that_does_not_do_it(
    open_visitor: Callable[..., Visitor], status: int | None
) -> None:
    """By its refusal, or with no connection at all (None)."""
    visitor = open_visitor("admin_key")
    page = visitor.page
    page.goto("/batches")
    here = re.compile(r"/batches$")
    page.route(
        here, lambda route: route.abort() if status is None else route.fulfill(status=status)
    )
    banner(visitor).wait_for()
    page.unroute(here)
    banner(visitor).wait_for(state="detached")
    visitor.problems.clear()


def test_a_stream_that_is_not_to_be_had(
    stack: RunningStack, hosts: Hosts, open_visitor: Callable[..., Visitor]
) -> None:
    """It is said while there is no answer; then the page is read instead, and is right."""
    hosts.change(0, stop_seconds=5)
    try:
        ids = hosts.cvms(0)[:2]
        batch_id, _ = stack.batch_stop(ids)
        visitor = open_visitor("admin_key")
        visitor.page.route("**/events", lambda route: route.fulfill(status=503))
        visitor.page.goto(f"/batches/{batch_id}")
        banner(visitor).wait_for()
        banner(visitor).wait_for(state="detached")
        visitor.wait_for_end(2)
    finally:
        hosts.change(0, stop_seconds=0.1)
    assert visitor.cells() == dict.fromkeys(ids, "succeeded")
    visitor.problems.clear()


def test_the_overview_says_of_when_it_is(open_visitor: Callable[..., Visitor]) -> None:
    visitor = open_visitor("admin_key")
    visitor.page.goto("/")
    said = visitor.page.locator("#overview").inner_text()
    assert re.search(r"as of \d\d:\d\d:\d\d UTC", said)


def test_a_session_that_has_ended(
    stack: RunningStack, open_visitor: Callable[..., Visitor]
) -> None:
    visitor = open_visitor("user_key")
    visitor.page.goto("/batches")
    visitor.context.clear_cookies()
    visitor.page.get_by_text("Your session has ended: sign in again.").wait_for()
    visitor.sign_in(stack.facts["user_key"])
    visitor.page.wait_for_url("**/batches")
