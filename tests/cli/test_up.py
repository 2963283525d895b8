"""What `cvmstop up` refuses; tests/system has what it does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cli.stack.processes import clean_environment
from cli.up import opened


if TYPE_CHECKING:
    from pathlib import Path


def _up(tmp_path: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", "up", *options],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **environment, "TMPDIR": str(tmp_path)},
    )


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = _up(tmp_path, "--port", str(port))
    assert refused.returncode == 1
    assert refused.stderr == (
        f"cvmstop: port {port} is taken: give another --port, or none for a free one\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_setting_ends_it_with_a_line_and_leaves_nothing(tmp_path: Path) -> None:
    refused = _up(tmp_path, CVMSTOP_LEASE="soon")
    assert refused.returncode == 1
    assert refused.stderr.startswith("cvmstop: CVMSTOP_LEASE: ")
    assert len(refused.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_its_own_goes_with_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with opened(None) as directory:
        assert directory.root.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_a_given_directory_stays(tmp_path: Path) -> None:
    with opened(tmp_path / "stack") as directory:
        pass
    assert directory.logs.is_dir()


def test_variables_of_the_caller_lead_nothing_astray() -> None:
    caller = {
        "PATH": "/bin",
        "CVMSTOP_LEASE": "80",
        "PGHOST": "elsewhere",
        "CELERY_BROKER_URL": "redis://elsewhere",
        "FLOWER_UNAUTHENTICATED_API": "1",
    }
    assert clean_environment(caller) == {"PATH": "/bin", "CVMSTOP_LEASE": "80"}
