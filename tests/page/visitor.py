"""Somebody at a browser: what they do, and whatever goes wrong in it meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, ConsoleMessage, Page

PATIENCE = 30_000
"""Milliseconds that something gets to be seen."""


class Visitor:
    """One window, with cookies of its own.

    Parameters
    ----------
    context
        Nothing else uses it.
    """

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.problems: list[str] = []
        """What the browser complained of: errors of scripts, of loading, and of the policy."""
        context.set_default_timeout(PATIENCE)
        self.page: Page = context.new_page()
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.problems.append(f"{message.type} at {self.page.url}: {message.text}")

    def sign_in(self, key: str) -> None:
        """Fill in the form of the page that is open."""
        self.page.get_by_label("API key").fill(key)
        self.page.get_by_role("button", name="Sign in").click()

    def go_to(self, name: str) -> None:
        """Follow a link at the top."""
        self.page.get_by_role("navigation", name="Main").get_by_role("link", name=name).click()

    def heading(self) -> str:
        """Read the page's."""
        return self.page.locator("h1").inner_text()

    def stop(self, cvm_ids: list[str]) -> None:
        """Paste ids, look at what would be stopped, and say yes."""
        self.go_to("Stop CVMs")
        self.page.get_by_label("Ids of CVMs").fill("\n".join(cvm_ids))
        self.page.get_by_role("button", name="Show what would be stopped").click()
        self.page.get_by_role("button", name="Stop ").click()

    def cells(self) -> dict[str, str]:
        """Read a batch's cells: each CVM's state, as its word says."""
        found: list[list[str]] = self.page.locator(".cell").evaluate_all(
            "cells => cells.map(c => [c.querySelector('.id').textContent,"
            " c.querySelector('.word').textContent])"
        )
        return {cvm_id: state for cvm_id, state in found}  # noqa: C416 - of lists, not of pairs

    def wait_for_end(self, number: int) -> None:
        """Wait until a batch's page says that all have ended."""
        self.page.locator("#progress", has_text=f"All {number} have ended.").wait_for()

    def evaluate(self, script: str) -> Any:
        """Ask the page."""
        return self.page.evaluate(script)
