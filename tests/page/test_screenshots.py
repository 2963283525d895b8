"""Each page, in light, in dark and on a phone: kept, to be looked at by people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.page.conftest import SCHEMES


if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.page.conftest import Hosts
    from tests.page.visitor import Visitor
    from tests.system.running_stack import RunningStack

PAGES = {
    "overview": "/?hours=1",
    "batches": "/batches",
    "batch": "/batches/{batch}",
    "batch-open": "/batches/{open}",
    "failures": "/failures",
    "failures-of-host": "/failures?host=simulated-host-2&retried=all",
    "stop": "/stops/{stop}",
    "cvms": "/cvms?status=running",
    "cvm": "/cvms/{cvm}",
    "new": "/new",
    "not-there": "/batches/00000000-0000-4000-8000-000000000000",
}

WIDER_THAN_THE_SCREEN = "document.documentElement.scrollWidth > window.innerWidth"

WITHOUT_A_NAME = """() => [
  ...document.querySelectorAll("a, button, select, textarea, input:not([type=hidden], [hidden])"),
].filter((each) => !(each.textContent.trim() || each.ariaLabel || each.labels?.length))
  .map((each) => each.outerHTML)"""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_page(
    eventful: dict[str, str],
    open_visitor: Callable[..., Visitor],
    screenshots: Path,
    scheme: str,
) -> None:
    visitor = open_visitor("admin_key", **SCHEMES[scheme])
    for name, path in PAGES.items():
        answer = visitor.page.goto(path.format(**eventful))
        assert answer
        if answer.status == 404:
            assert name == "not-there"
            visitor.problems.clear()
        else:
            assert answer.status == 200
        # A bar that stays in sight would be in the middle of a long list.
        path_of = screenshots / f"{name}-{scheme}.png"
        visitor.page.screenshot(path=path_of, full_page=name != "cvms")
        assert not visitor.evaluate(WIDER_THAN_THE_SCREEN), name
        assert visitor.page.locator("h1").count() == 1
        assert visitor.page.locator("main").count() == 1
        assert not visitor.evaluate(WITHOUT_A_NAME), name


def test_nothing_scrolls_sideways(
    eventful: dict[str, str], open_visitor: Callable[..., Visitor]
) -> None:
    """On the narrowest screen that counts: 1280 pixels at 400 % (WCAG 2.2, 1.4.10)."""
    visitor = open_visitor("admin_key", viewport={"width": 320, "height": 640})
    wider = []
    for name, path in PAGES.items():
        visitor.page.goto(path.format(**eventful))
        if visitor.evaluate(WIDER_THAN_THE_SCREEN):
            wider.append(name)
    visitor.problems.clear()  # one of them is not there
    assert not wider


@pytest.mark.parametrize("scheme", SCHEMES)
def test_before_and_after(
    hosts: Hosts,
    stack: RunningStack,
    open_visitor: Callable[..., Visitor],
    screenshots: Path,
    scheme: str,
) -> None:
    """Pages that are shown once: signing in, and what would be stopped."""
    visitor = open_visitor(**SCHEMES[scheme])
    visitor.page.goto("/sign-in")
    visitor.page.screenshot(path=screenshots / f"sign-in-{scheme}.png")
    visitor = open_visitor("user_key", **SCHEMES[scheme])
    visitor.page.goto("/new")
    asked = [*hosts.cvms(0)[:3], *stack.cvm_ids("globex")[:1], "cvm_unheard_of"]
    visitor.page.get_by_label("Ids of CVMs").fill("\n".join(asked))
    visitor.page.get_by_role("button", name="Show what would be stopped").click()
    visitor.page.screenshot(path=screenshots / f"preview-{scheme}.png", full_page=True)
    assert not visitor.evaluate(WIDER_THAN_THE_SCREEN)
