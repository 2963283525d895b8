"""Failpoints strike once, and only who has them switched on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from shared import failpoints
from shared.failpoints import Failpoint, reach
from tests.support.waiting import wait_until


if TYPE_CHECKING:
    from pathlib import Path

COME_BY_TWICE = (
    "from shared.failpoints import Failpoint, reach\n"
    "reach(Failpoint.WORKER_CLAIMED); print('went on', flush=True); reach(Failpoint.WORKER_CLAIMED)"
)


def _passer_by(directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COME_BY_TWICE],
        env={**os.environ, failpoints.VARIABLE: str(directory)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_kills(tmp_path: Path) -> None:
    (tmp_path / Failpoint.WORKER_CLAIMED).write_text("kill\n")
    process = _passer_by(tmp_path)
    assert process.communicate(timeout=30)[0] == ""
    assert process.returncode == -signal.SIGKILL
    assert [file.name for file in tmp_path.iterdir()] == [f"worker.claimed.struck-{process.pid}"]


def test_freezes_once(tmp_path: Path) -> None:
    (tmp_path / Failpoint.WORKER_CLAIMED).write_text("freeze")
    process = _passer_by(tmp_path)
    frozen = psutil.Process(process.pid)
    wait_until(lambda: frozen.status() == psutil.STATUS_STOPPED, what="it is frozen")
    frozen.resume()
    assert process.communicate(timeout=30)[0] == "went on\n"
    assert process.returncode == 0


def test_is_off_unless_switched_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(failpoints.VARIABLE, raising=False)
    (tmp_path / Failpoint.WORKER_CLAIMED).write_text("kill")
    reach(Failpoint.WORKER_CLAIMED)
    assert (tmp_path / Failpoint.WORKER_CLAIMED).exists()
