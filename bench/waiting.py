"""Waiting until something is so, or giving up."""

from __future__ import annotations

import socket
import sys
import time
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATIENCE = 60.0
"""Seconds after which a measurement gives up, unless it says otherwise."""


def wait_until(
    condition: Callable[[], object],
    what: str,
    *,
    patience: float = PATIENCE,
    interval: float = 0.01,
) -> None:
    """Wait until a condition is true; ends the program when that takes too long."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"gave up after {patience:g} s waiting for: {what}")
        time.sleep(interval)


def wait_for_file(file: Path) -> str:
    """Wait until a file is there; gives its text."""
    wait_until(file.exists, f"{file.name}")
    return file.read_text().strip()


def listens(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
