"""Everything by the keyboard, and what is focused is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.page.conftest import Hosts
    from tests.page.visitor import Visitor
    from tests.system.running_stack import RunningStack

FOCUSED = """() => {
  const each = document.activeElement;
  const style = getComputedStyle(each);
  return [each.textContent.trim() || each.name || "", style.outlineStyle, style.outlineWidth];
}"""


def tab_to(visitor: Visitor, name: str) -> None:
    """Press Tab until something of that name has the focus; each on the way must be seen."""
    for _ in range(40):
        visitor.page.keyboard.press("Tab")
        text, outline, width = visitor.page.evaluate(FOCUSED)
        assert outline != "none", f"{text} has the focus, and nothing shows it"
        assert width != "0px"
        if text.startswith(name):
            return
    msg = f"Tab does not come to {name}"
    raise AssertionError(msg)


def test_signing_in_and_starting_a_batch(
    stack: RunningStack, hosts: Hosts, open_visitor: Callable[..., Visitor]
) -> None:
    visitor = open_visitor()
    page = visitor.page
    (cvm_id,) = hosts.cvms(2)[:1]
    page.goto("/")
    page.keyboard.type(stack.facts["user_key"])
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    page.locator(".brand").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED)[0] == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    page.goto("/")
    tab_to(visitor, "Stop CVMs")
    page.keyboard.press("Enter")
    page.wait_for_url("**/new")
    tab_to(visitor, "ids")
    page.keyboard.type(cvm_id)
    tab_to(visitor, "Show what would be stopped")
    page.keyboard.press("Enter")
    page.wait_for_url("**/new/preview")
    tab_to(visitor, "Stop 1 CVM")
    page.keyboard.press("Enter")
    page.wait_for_url("**/batches/*")
    visitor.wait_for_end(1)
    tab_to(visitor, cvm_id)
    page.keyboard.press("Enter")
    page.wait_for_url("**/stops/*")
