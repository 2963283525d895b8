"""Tables for people: what is copied from them, such as an id, is never broken."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

MOST_FITTED_ROWS = 1000
"""Fitting a table to the terminal takes rich about half a millisecond for each row."""

FREE_TEXT = frozenset(
    {"error", "error_message", "events", "last_error", "message", "sync_error", "workspaces"}
)
"""Columns whose words may go to another line. All others stay whole."""

LEAST_FREE = 30
"""Characters of free text in a line below which it goes under its row instead."""

GAP = 2
"""Spaces between two columns."""


def show_table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Write rows to standard output, as wide as the terminal if they fit without breaking an id.

    Parameters
    ----------
    rows
        As `cli.output.show_rows` has them; at least one.
    columns
        Fields to show, in order.
    """
    header = [_title(column, rows) for column in columns]
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    free = [place for place, column in enumerate(columns) if column in FREE_TEXT]
    if sys.stdout.isatty() and len(rows) <= MOST_FITTED_ROWS:
        for line in _fitted(header, cells, free):
            typer.echo(line)
    else:
        for line in _whole(header, cells):
            typer.echo(line)


def _fitted(header: list[str], cells: list[list[str]], free: list[int]) -> Iterator[str]:
    """Fold free text to what the other columns leave; if that is little, put it under its row."""
    from rich.console import Console

    console = Console()
    widths = _widths(header, cells)
    room = console.width - sum(width + GAP for width in widths) + GAP
    room += sum(widths[place] for place in free)
    least = [min(widths[place], LEAST_FREE) for place in free]
    if not free or room < sum(least):
        yield from _free_text_below(console, header, cells, free)
        return
    for number, place in enumerate(free):
        widths[place] = min(widths[place], room - sum(least[number + 1 :]))
        room -= widths[place]
    for row in [header, *cells]:
        folded = [
            _fold(console, cell, widths[place]) if place in free else [cell]
            for place, cell in enumerate(row)
        ]
        for number in range(max(map(len, folded))):
            parts = [lines[number] if number < len(lines) else "" for lines in folded]
            yield _line(parts, widths)


def _free_text_below(
    console: Console, header: list[str], cells: list[list[str]], free: list[int]
) -> Iterator[str]:
    kept = [place for place in range(len(header)) if place not in free]
    rows = [[row[place] for place in kept] for row in [header, *cells]]
    first, *lines = _whole(rows[0], rows[1:])
    yield first
    for line, row in zip(lines, cells, strict=True):
        yield line
        for place in free:
            if row[place] != "-":
                text = f"{header[place]}: {row[place]}"
                yield from (f"    {part}" for part in _fold(console, text, console.width - 4))


def _whole(header: list[str], cells: list[list[str]]) -> Iterator[str]:
    """One line for each row, nothing cut or folded: for files and pipes."""
    widths = _widths(header, cells)
    for row in [header, *cells]:
        yield _line(row, widths)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    from rich.cells import cell_len

    parts = [
        cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)
    ]
    return (" " * GAP).join(parts).rstrip()


def _widths(header: list[str], cells: list[list[str]]) -> list[int]:
    from rich.cells import cell_len

    return [max(map(cell_len, column)) for column in zip(header, *cells, strict=True)]


def _fold(console: Console, text: str, width: int) -> list[str]:
    from rich.text import Text

    return [line.plain.rstrip() for line in Text(text).wrap(console, max(width, 1))]


def _title(column: str, rows: Sequence[dict[str, Any]]) -> str:
    """Name a column; the time zone is said here, and not in every row."""
    is_time = any(isinstance(row[column], datetime) for row in rows)
    name = column.removesuffix("_at") if is_time else column
    return name.replace("_", " ") + (" (UTC)" if is_time else "")


def _cell(value: Any) -> str:
    """Write a value for a person; what would steer the terminal is shown, not sent."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, list):
        return ", ".join(_cell(part) for part in value) or "-"
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
