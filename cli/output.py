"""Showing rows: a table for people, JSON for programs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.tables import show_table


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

AsJson = Annotated[bool, typer.Option("--json", help="A JSON list of objects instead of a table.")]
"""The option `--json` of every command that lists."""

AsWide = Annotated[bool, typer.Option("--wide", help="Every column, not those that matter most.")]
"""The option `--wide` of commands that list what has many columns."""


def show_rows(
    rows: Iterable[Mapping[Any, Any]],
    columns: Sequence[str],
    *,
    as_json: bool,
    nothing: str,
    if_any: Sequence[str] = (),
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
    if_any
        Columns that a table has only if one of its rows has something there.
    """
    found = [dict(row) for row in rows]
    if as_json:
        typer.echo(as_json_text(found))
    elif not found:
        typer.echo(nothing, err=True)
    else:
        hidden = {each for each in if_any if not any(row[each] for row in found)}
        show_table(found, [column for column in columns if column not in hidden])


def with_times(row: Mapping[str, Any], *fields: str) -> dict[str, Any]:
    """Give a row of the API's for a table: its times are times, not texts."""
    times = {name: datetime.fromisoformat(row[name]) for name in fields if row.get(name)}
    return {**row, **times}


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
