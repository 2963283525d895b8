"""The plans of every statement that a block runs, as PostgreSQL would run it there and then.

Caught where psycopg executes, so that it does not matter who built the statement. Each is
explained with its own parameters (what PostgreSQL plans at first) and as a prepared statement's
plan for any parameters (what it may keep: psycopg prepares a statement when it comes again).
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest
from psycopg import ClientCursor, sql


if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

EXPLAINED = ("select", "insert", "update", "delete", "with")
"""How a statement begins that has a plan."""

PLACEHOLDER = re.compile(r"%\((\w+)\)[sbt]|%[sbt]|%%")

numbers = count()
"""Of prepared statements: one that fails stays on its connection."""

TYPES = {timedelta: "interval", datetime: "timestamptz", UUID: "uuid", bytes: "bytea"}
"""As psycopg tells them; the rest is for PostgreSQL to find out."""


@dataclass(frozen=True, kw_only=True)
class Explained:
    """One statement, and what it did."""

    statement: str
    kind: str
    """`custom` for its own parameters, `generic` for any."""
    plan: dict[str, Any]
    jit: dict[str, Any] | None
    """What compiling it took, if PostgreSQL thought that it would pay."""

    def scanned_whole(self, tables: Sequence[str]) -> list[str]:
        """Say which of the tables it goes through from one end to the other."""
        return [
            node["Relation Name"]
            for node in nodes(self.plan)
            if node["Node Type"] == "Seq Scan" and node["Relation Name"] in tables
        ]

    def examined(self, tables: Sequence[str]) -> int:
        """Count the tables' rows and index entries that it looked at, whether wanted or not."""
        counts: list[float] = [
            node["Actual Loops"]
            * (
                node["Actual Rows"]
                + node.get("Rows Removed by Filter", 0)
                + node.get("Rows Removed by Index Recheck", 0)
            )
            for node in nodes(self.plan)
            if node.get("Relation Name") in tables or node["Node Type"] == "Bitmap Index Scan"
        ]
        return round(sum(counts))

    def __str__(self) -> str:
        lines = [f"{self.kind} plan of {' '.join(self.statement.split())}"]
        lines += [
            f"  {node['Node Type']} {node.get('Index Name', node.get('Relation Name', ''))}:"
            f" {node['Actual Rows']} rows, {node['Actual Loops']} times,"
            f" {node.get('Rows Removed by Filter', 0)} removed by {node.get('Filter', 'no filter')}"
            for node in nodes(self.plan)
        ]
        return "\n".join(lines)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give every node of a plan."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


@contextmanager
def explaining() -> Iterator[list[Explained]]:
    """Explain whatever is executed in the block, by anybody in this process."""
    found: list[Explained] = []
    execute = psycopg.Cursor.execute

    def explain(cursor: psycopg.Cursor[Any], query: Any, params: Any = None, **options: Any) -> Any:
        text = _text(query, cursor.connection)
        if text.lstrip().lower().startswith(EXPLAINED):
            with pytest.MonkeyPatch.context() as undone:
                undone.setattr(psycopg.Cursor, "execute", execute)
                found.extend(_explain(cursor.connection, text, params))
        return execute(cursor, query, params, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.Cursor, "execute", explain)
        yield found


def _text(query: Any, connection: psycopg.Connection[Any]) -> str:
    if isinstance(query, bytes):
        return query.decode()
    return query if isinstance(query, str) else str(query.as_string(connection))


def _explain(connection: psycopg.Connection[Any], text: str, params: Any) -> Iterator[Explained]:
    """Run it and take back what it did, once with each kind of plan."""
    numbered, values = _numbered(text, params)
    types = ", ".join(TYPES.get(type(value), "unknown") for value in values)
    literals = ", ".join(sql.Literal(value).as_string(connection) for value in values)
    name = f"explained_{next(numbers)}"
    prepare = f"PREPARE {name}{f'({types})' if values else ''} AS {numbered}"
    execute = f"EXECUTE {name}{f'({literals})' if values else ''}"
    cursor = ClientCursor(connection)
    for kind in ("custom", "generic"):
        cursor.execute("SAVEPOINT explained")
        cursor.execute(f"SET LOCAL plan_cache_mode = force_{kind}_plan")
        cursor.execute(prepare)
        answer = cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {execute}").fetchone()
        assert answer is not None
        cursor.execute(f"DEALLOCATE {name}")
        cursor.execute("ROLLBACK TO SAVEPOINT explained")
        ((found,),) = answer
        yield Explained(statement=text, kind=kind, plan=found["Plan"], jit=found.get("JIT"))


def _numbered(text: str, params: Any) -> tuple[str, list[Any]]:
    """Turn psycopg's placeholders into PostgreSQL's; gives the values in their order."""
    if params is None:
        return text, []
    values: list[Any] = []
    numbers: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        if found[0] == "%%":
            return "%"
        name = found[1]
        if name is None:
            values.append(params[len(values)])
            return f"${len(values)}"
        if name not in numbers:
            named: Mapping[str, Any] = params
            values.append(named[name])
            numbers[name] = len(values)
        return f"${numbers[name]}"

    return PLACEHOLDER.sub(number, text), values
