from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest

from cli.output import show_rows


ROW = {
    "id": UUID(int=1),
    "name": "a\x1b]0;b\n[bold]ü",
    "at": datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone(timedelta(hours=2))),
    "ok": True,
    "none": None,
    "parts": ["x", "y"],
}


def test_json_has_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows([ROW], ["name"], as_json=True, nothing="")
    (shown,) = json.loads(capsys.readouterr().out)
    assert shown == {
        "id": "00000000-0000-0000-0000-000000000001",
        "name": "a\x1b]0;b\n[bold]ü",
        "at": "2026-01-02T01:04:05.000678Z",
        "ok": True,
        "none": None,
        "parts": ["x", "y"],
    }


def test_a_table_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows([ROW], list(ROW), as_json=False, nothing="")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    header, row = out.splitlines()
    assert header.split() == list(ROW)
    assert "a\\x1b]0;b\\n[bold]ü" in row
    assert "2026-01-02T01:04:05Z" in row
    assert row.split()[-4:] == ["yes", "-", "x,", "y"]


def test_nothing_is_cut_off_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows([{"name": "x" * 500}], ["name"], as_json=False, nothing="")
    assert "x" * 500 in capsys.readouterr().out


def test_a_terminal_gets_a_table_that_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    show_rows([{"name": "x" * 100, "ok": False}], ["name", "ok"], as_json=False, nothing="")
    lines = capsys.readouterr().out.splitlines()[1:]  # the header is bold
    assert "".join(lines).count("x") == 100
    assert max(len(line) for line in lines) <= 60


def test_times_are_utc(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows([{"at": datetime(2026, 1, 1, tzinfo=UTC)}], ["at"], as_json=True, nothing="")
    assert json.loads(capsys.readouterr().out) == [{"at": "2026-01-01T00:00:00Z"}]
