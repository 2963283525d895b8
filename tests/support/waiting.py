"""Waiting for conditions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar


if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")


def eventually(ask: Callable[[], Value], *, timeout: float = 30.0) -> Value:
    """Ask every 20 ms until the answer is truthy, and give it; fail when it is not in time.

    The time-out is generous: it is waited out only when the test fails.
    """
    deadline = time.monotonic() + timeout
    while True:
        if answer := ask():
            return answer
        assert time.monotonic() < deadline, f"still {answer!r} after {timeout} s"
        time.sleep(0.02)


def wait_until(condition: Callable[[], object], *, what: str) -> None:
    """Wait until a condition holds; `what` ends the sentence "gave up waiting until ..."."""
    try:
        eventually(condition)
    except AssertionError as error:
        msg = f"gave up waiting until {what}"
        raise AssertionError(msg) from error
