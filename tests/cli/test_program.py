from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cli.program import program


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a directory with a program below it."""
    program_file = tmp_path / "a venv" / "cvmstop"
    program_file.parent.mkdir()
    program_file.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    return tmp_path


@pytest.mark.parametrize(
    ("called", "shown"),
    [
        ("a venv/cvmstop", "'a venv/cvmstop'"),
        ("./cvmstop", "./cvmstop"),
        ("/elsewhere/bin/cvmstop", "/elsewhere/bin/cvmstop"),
    ],
)
def test_as_it_was_called(monkeypatch: pytest.MonkeyPatch, called: str, shown: str) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    assert program() == shown


def test_bare_where_path_leads_to_it(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    monkeypatch.setenv("PATH", str(here / "a venv"))
    monkeypatch.setattr(sys, "argv", [str(here / "a venv" / "cvmstop")])
    assert program() == "cvmstop"
    assert program(shortened=False) == f"'{here}/a venv/cvmstop'"
    monkeypatch.chdir("/")
    assert program(shortened=False) == f"'{here}/a venv/cvmstop'"


def test_as_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/elsewhere/cli/__main__.py"])
    monkeypatch.setattr(sys, "executable", "/elsewhere/bin/python")
    assert program() == "/elsewhere/bin/python -m cli"
