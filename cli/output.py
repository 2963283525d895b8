"""Showing rows: a table for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

AsJson = Annotated[bool, typer.Option("--json", help="A JSON list of objects instead of a table.")]
"""The option `--json` of every command that lists."""

MOST_FITTED_ROWS = 1000
"""Fitting a table to the terminal takes rich about half a millisecond for each row."""


def show_rows(
    rows: Iterable[Mapping[Any, Any]], columns: Sequence[str], *, as_json: bool, nothing: str
) -> None:
    """Write rows to standard output.

    Parameters
    ----------
    rows
        Flat: strings, numbers, booleans, times, None, lists of strings.
    columns
        Fields to show in a table, in order. JSON has every field of each row.
    as_json
        JSON instead of a table. Times are ISO 8601 in UTC.
    nothing
        What to tell (on standard error) instead of an empty table.
    """
    found = [dict(row) for row in rows]
    if as_json:
        typer.echo(as_json_text(found))
    elif not found:
        typer.echo(nothing, err=True)
    else:
        _show_table(found, columns)


def as_json_text(value: Any) -> str:
    """Write a value as JSON, in the same form everywhere."""
    return json.dumps(value, default=_plain, indent=2, ensure_ascii=False)


def time_text(time: datetime) -> str:
    """Write a time as ISO 8601 in UTC, to the second."""
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)


def _show_table(rows: list[dict[str, Any]], columns: Sequence[str]) -> None:
    header = [column.replace("_", " ") for column in columns]
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    if sys.stdout.isatty() and len(rows) <= MOST_FITTED_ROWS:
        _show_fitted(header, cells)
    else:
        _show_whole(header, cells)


def _show_fitted(header: list[str], cells: list[list[str]]) -> None:
    """Fold what is too long for the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _show_whole(header: list[str], cells: list[list[str]]) -> None:
    """One line for each row, nothing cut or folded: for files and pipes."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *cells, strict=True)]
    for row in [header, *cells]:
        parts = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        typer.echo("  ".join(parts).rstrip())


def _cell(value: Any) -> str:
    """Write a value for a person; what would steer the terminal is shown, not sent."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return time_text(value)
    if isinstance(value, list):
        return ", ".join(_cell(part) for part in value) or "-"
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
