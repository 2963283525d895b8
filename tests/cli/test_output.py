from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
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
    assert header.split() == ["id", "name", "at", "(UTC)", "ok", "none", "parts"]
    assert "a\\x1b]0;b\\n[bold]ü" in row
    assert "2026-01-02 01:04:05  yes" in row
    assert row.split()[-4:] == ["yes", "-", "x,", "y"]


def test_nothing_is_cut_off_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows([{"name": "x" * 500}], ["name"], as_json=False, nothing="")
    assert "x" * 500 in capsys.readouterr().out


def write_to_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))


MESSAGE = " ".join(f"word{n}" for n in range(30))


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_gets_free_text_folded(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_to_terminal(monkeypatch, width)
    rows = [{"id": UUID(int=1), "error_message": MESSAGE}, {"id": UUID(int=2), "error_message": ""}]
    show_rows(rows, ["id", "error_message"], as_json=False, nothing="")
    header, first, *lines, last = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in [first, *lines]) <= width
    assert header.split() == ["id", "error", "message"]
    assert first.startswith(f"{UUID(int=1)}  word0 ")
    assert last == str(UUID(int=2))
    assert " ".join([first, *lines]).split()[1:] == MESSAGE.split(), "no word is broken"


@pytest.mark.parametrize("width", [80, 120])
def test_what_is_too_wide_for_a_terminal_stays_whole(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_to_terminal(monkeypatch, width)
    row: dict[str, Any] = {name: UUID(int=n) for n, name in enumerate(("id", "batch", "stop"))}
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    rows = [{**row, "at": at, "error": None}, {**row, "at": at, "error": MESSAGE}]
    show_rows(rows, list(rows[0]), as_json=False, nothing="")
    _, first, second, *below = capsys.readouterr().out.splitlines()
    assert first == second == "  ".join([*map(str, row.values()), "2026-01-02 03:04:05"])
    assert max(len(line) for line in below) <= width
    assert " ".join(below).split() == ["error:", *MESSAGE.split()]


def test_columns_that_a_table_has_if_any(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [
        {"id": 1, "ended": None, "error": ""},
        {"id": 2, "ended": "now", "error": None},
    ]
    show_rows(rows, list(rows[0]), as_json=False, nothing="", if_any=["ended", "error"])
    assert capsys.readouterr().out.splitlines()[0].split() == ["id", "ended"]


def test_times_are_utc(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows([{"at": datetime(2026, 1, 1, tzinfo=UTC)}], ["at"], as_json=True, nothing="")
    assert json.loads(capsys.readouterr().out) == [{"at": "2026-01-01T00:00:00Z"}]
