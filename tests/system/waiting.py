"""Waiting for what other processes do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar


if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")


def eventually(ask: Callable[[], Value], *, timeout: float = 30.0) -> Value:
    """Ask again and again until the answer is truthy, and give it."""
    deadline = time.monotonic() + timeout
    while True:
        if answer := ask():
            return answer
        assert time.monotonic() < deadline, f"still {answer!r} after {timeout} s"
        time.sleep(0.05)
