from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from cli.stack import leftovers
from cli.stack.leftovers import Started


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    yield process
    process.kill()
    process.wait()


def _recorded(path: Path, process: subprocess.Popen[bytes]) -> Started:
    started = leftovers.describe("sleeper", process.pid, signal.SIGTERM)
    assert started is not None
    leftovers.record(path, [started])
    return started


def test_ends_what_still_runs(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    path = tmp_path / "processes.json"
    _recorded(path, sleeper)
    assert leftovers.end_recorded(path) == ["sleeper"]
    assert not psutil.pid_exists(sleeper.pid)
    assert not path.exists()


def test_leaves_a_later_process_of_the_same_number_alone(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    path = tmp_path / "processes.json"
    started = _recorded(path, sleeper)
    earlier = Started(**{**vars(started), "created": started.created - 60})
    leftovers.record(path, [earlier])
    assert leftovers.end_recorded(path) == []
    assert psutil.Process(sleeper.pid).status() != psutil.STATUS_ZOMBIE


def test_what_has_ended_is_not_described(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    sleeper.wait()
    assert leftovers.describe("sleeper", sleeper.pid, signal.SIGTERM) is None


@pytest.mark.parametrize("content", ["", "[{", '{"a": 1}', '[{"name": "x"}]'])
def test_a_file_that_was_cut_off(tmp_path: Path, content: str) -> None:
    path = tmp_path / "processes.json"
    path.write_text(content)
    assert leftovers.end_recorded(path) == []


def test_no_file(tmp_path: Path) -> None:
    assert leftovers.end_recorded(tmp_path / "processes.json") == []
