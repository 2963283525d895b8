"""`cvmstop demo`, as `make demo` runs it."""

from __future__ import annotations

import subprocess
import sys


def test_it_shows_what_it_promises_and_ends_well() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli", "demo"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "150 of 150 ended: 100 succeeded, 50 failed" in done.stdout
    assert "50 on dead: " in done.stdout
    assert "Run `make demo KEEP=1` to look around." in done.stdout
    # What is gone by now is not shown.
    assert "CVMSTOP_API_KEY" not in done.stdout
    assert "failures show" not in done.stdout
    assert "Flower: " not in done.stdout
