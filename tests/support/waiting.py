"""Waiting for conditions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Callable


def wait_until(condition: Callable[[], object], *, what: str, seconds: float = 15) -> None:
    """Wait until a condition holds; fail the test when it does not in time.

    Parameters
    ----------
    condition
        Looked at every 20 ms.
    what
        Ends the sentence "gave up waiting until …".
    seconds
        How long to wait; generous, since it is only waited out when the test fails.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            msg = f"gave up waiting until {what}"
            raise AssertionError(msg)
        time.sleep(0.02)
