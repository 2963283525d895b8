"""The whole story: sign in, stop, watch, find what failed, mend it, try again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import eventually


if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.page.conftest import Hosts
    from tests.page.visitor import Visitor
    from tests.system.running_stack import RunningStack


NOTE_WHAT_GOES_BACK = """
window.wentBack = [];
addEventListener("DOMContentLoaded", () => {
  const order = ["scheduled", "stopping", "confirming", "succeeded", "failed"];
  const seen = new Map();
  for (const word of document.querySelectorAll(".cell .word")) {
    seen.set(word, word.textContent);
    new MutationObserver(() => {
      if (order.indexOf(word.textContent) < order.indexOf(seen.get(word))) {
        window.wentBack.push(`${seen.get(word)} to ${word.textContent}`);
      }
      seen.set(word, word.textContent);
    }).observe(word, { childList: true, characterData: true, subtree: true });
  }
});
"""
"""Notes each cell that goes from a later state to an earlier one: none does, on these hosts."""


@pytest.mark.usefixtures("slow_hosts")
def test_the_story(
    stack: RunningStack, hosts: Hosts, open_visitor: Callable[..., Visitor], screenshots: Path
) -> None:
    visitor = open_visitor()
    good, bad = hosts.cvms(0)[:8], hosts.cvms(1)[:4]
    visitor.page.goto("/batches")
    assert "/sign-in?next=%2Fbatches" in visitor.page.url
    visitor.sign_in(stack.facts["user_key"])
    visitor.page.wait_for_url("**/batches")

    with hosts.broken():
        start_a_batch(visitor, [*good, *bad])
        watch_it_finish(visitor, good, bad, screenshots)
    find_the_failure(visitor, stack, bad[0])
    try_it_again(visitor, bad[0])
    try_the_others_again(visitor, stack)

    visitor.page.get_by_role("button", name="Sign out").click()
    visitor.page.wait_for_url("**/sign-in")
    visitor.page.goto("/failures")
    assert "/sign-in" in visitor.page.url


def start_a_batch(visitor: Visitor, cvm_ids: list[str]) -> None:
    page = visitor.page
    visitor.go_to("Stop CVMs")
    page.get_by_label("Ids of CVMs").fill(", ".join([*cvm_ids, "cvm_unheard_of"]))
    page.get_by_role("button", name="Show what would be stopped").click()
    assert visitor.heading() == f"Stop {len(cvm_ids)} CVMs?"
    assert page.locator(".verdicts").inner_text().split() == [
        *(str(len(cvm_ids)), "would", "be", "stopped", "0", "skipped", "1", "refused")
    ]
    assert "CVM not found" in page.locator("main").inner_text()
    page.get_by_role("button", name=f"Stop {len(cvm_ids)} CVMs").click()
    page.wait_for_url("**/batches/*")


def watch_it_finish(visitor: Visitor, good: list[str], bad: list[str], screenshots: Path) -> None:
    page = visitor.page
    page.locator(".cell.is-stopping, .cell.is-confirming").first.wait_for()
    # Whoever comes later is sent all that was before: nothing of it may be shown again.
    page.locator(".cell.is-failed").first.wait_for()
    page.add_init_script(NOTE_WHAT_GOES_BACK)
    page.reload()
    visitor.evaluate("window.stillThere = true")
    page.screenshot(path=screenshots / "batch-live-light.png", full_page=True)
    visitor.wait_for_end(len(good) + len(bad))
    page.get_by_role("heading", name=f"{len(bad)} failures").wait_for()
    assert visitor.evaluate("window.stillThere"), "it was loaded anew"
    assert visitor.evaluate("window.wentBack") == []
    cells = visitor.cells()
    assert cells == {**dict.fromkeys(good, "succeeded"), **dict.fromkeys(bad, "failed")}
    assert page.locator(".legend").inner_text().split() == [
        *("0", "scheduled", "0", "stopping", "0", "confirming"),
        *(str(len(good)), "succeeded", str(len(bad)), "failed", "0", "canceled"),
    ]
    widths = page.locator("#live .bar rect").evaluate_all(
        "rects => rects.map(r => Number(r.getAttribute('width')))"
    )
    assert widths == [len(good), len(bad), 0, 0, 0, 0]


def find_the_failure(visitor: Visitor, stack: RunningStack, cvm_id: str) -> None:
    page = visitor.page
    host = stack.facts["hosts"][1]["name"]
    visitor.go_to("Failures")
    page.get_by_role("textbox", name="Host").fill(host)
    page.get_by_role("button", name="Show", exact=True).click()
    group = page.locator(".groups a", has_text="credentials_refused")
    assert f"credentials_refused: {host}" in group.inner_text()
    group.click()
    page.get_by_role("row", name=cvm_id).get_by_role("link", name="What was tried").click()
    assert cvm_id in visitor.heading()
    assert "401" in page.locator(".exchanges td:nth-child(2)").all_inner_texts()
    stop_id = page.url.rpartition("/")[2]
    flower = page.get_by_role("link", name="in Flower").get_attribute("href")
    assert flower == f"{stack.facts['flower_url']}/task/{stop_id}"


def try_it_again(visitor: Visitor, cvm_id: str) -> None:
    """The host is mended."""
    page = visitor.page
    page.get_by_role("button", name="Try again").click()
    page.wait_for_url("**/batches/*")
    visitor.wait_for_end(1)
    assert visitor.cells() == {cvm_id: "succeeded"}
    page.get_by_role("link", name=cvm_id).click()
    page.locator("h1").get_by_role("link").click()
    page.get_by_role("heading", name="Its stops").wait_for()
    rows = page.locator("tbody tr").all_inner_texts()
    assert ["succeeded" in row for row in rows] == [True, False]
    assert "credentials_refused" in rows[1]


def try_the_others_again(visitor: Visitor, stack: RunningStack) -> None:
    page = visitor.page
    page.goto(f"/failures?host={stack.facts['hosts'][1]['name']}")
    shown = page.get_by_role("link", name="What was tried").count()
    assert shown >= 3
    page.get_by_role("button", name="shown again").click()
    assert visitor.heading() == f"Try {shown} stops again?"
    page.get_by_role("button", name=f"Try {shown} stops again").click()
    # One batch, or what came of several: other tests leave failures behind too.
    page.locator("#live").or_(page.get_by_text("new stop", exact=False)).first.wait_for()
    if not page.locator("#live").count():
        page.locator("main a.id").first.click()
    page.locator("#progress", has_text="have ended").wait_for()
    assert set(visitor.cells().values()) == {"succeeded"}


def test_pressed_twice_it_is_one_batch(
    stack: RunningStack, hosts: Hosts, open_visitor: Callable[..., Visitor]
) -> None:
    visitor = open_visitor("user_key")
    page = visitor.page
    ids = hosts.cvms(0)[:3]
    page.goto("/new")
    page.get_by_label("Ids of CVMs").fill(" ".join(ids))
    page.get_by_role("button", name="Show what would be stopped").click()
    page.get_by_role("button", name="Stop 3 CVMs").dblclick()
    page.wait_for_url("**/batches/*")
    batches = (
        "SELECT DISTINCT batch_id FROM stop_tasks JOIN cvms ON cvms.id = cvm_id"
        " WHERE hash_id = ANY(%s)"
    )
    assert len(stack.rows(batches, ids)) == 1
    visitor.wait_for_end(3)


def test_cvms_are_chosen_from_the_list(
    stack: RunningStack, hosts: Hosts, open_visitor: Callable[..., Visitor]
) -> None:
    visitor = open_visitor("user_key")
    page = visitor.page
    page.goto("/cvms")
    page.get_by_role("textbox", name="Host").fill(stack.facts["hosts"][2]["name"])
    page.get_by_role("textbox", name="Status").fill("running")
    page.get_by_role("button", name="Show", exact=True).click()
    chosen = [each for each in hosts.cvms(2) if page.get_by_label(f"Choose {each}").count()][:2]
    for cvm_id in chosen:
        page.get_by_label(f"Choose {cvm_id}").check()
    button = page.locator(".actions button")
    assert button.inner_text() == "Stop 2 CVMs …"
    page.get_by_label("Choose all on this page").check()
    page.get_by_label("Choose all on this page").uncheck()
    assert button.is_disabled()
    for cvm_id in chosen:
        page.get_by_label(f"Choose {cvm_id}").check()
    button.click()
    page.get_by_role("button", name="Stop 2 CVMs").click()
    page.wait_for_url("**/batches/*")
    visitor.wait_for_end(2)
    assert set(visitor.cells()) == set(chosen)


def reload_until_ended(visitor: Visitor) -> None:
    """Do what a browser without scripts is told to do by the page."""

    def ended() -> bool:
        visitor.page.reload()
        return "have ended" in visitor.page.locator("#progress").inner_text()

    eventually(ended)


@pytest.mark.usefixtures("slow_hosts")
def test_without_scripts_everything_can_be_read_and_done(
    stack: RunningStack, hosts: Hosts, open_visitor: Callable[..., Visitor]
) -> None:
    visitor = open_visitor(java_script_enabled=False)
    page = visitor.page
    good, bad = hosts.cvms(0)[:1], hosts.cvms(1)[:1]
    page.goto("/")
    visitor.sign_in(stack.facts["user_key"])
    with hosts.broken():
        visitor.stop([*good, *bad])
        page.wait_for_url("**/batches/*")
        # A browser that is told by its tools to run no script renders no `noscript` all the same.
        assert '<noscript><meta http-equiv="refresh" content="5">' in page.content()
        reload_until_ended(visitor)
    assert page.locator(".cell.is-failed").count() == 1
    page.get_by_role("button", name="Try 1 failed stop again").click()
    page.wait_for_url("**/batches/*retried=1")
    reload_until_ended(visitor)
    assert set(visitor.cells().values()) == {"succeeded"}
    for path in ("/", "/batches", "/failures", "/cvms", f"/cvms/{bad[0]}"):
        page.goto(path)
        assert page.locator("h1").count() == 1
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/sign-in")
