"""Statements that every stop goes through: built by SQLAlchemy once, run by psycopg.

Executing a statement through SQLAlchemy takes several times as long as psycopg does for it, all in
Python (`docs/performance.md`).
"""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg


if TYPE_CHECKING:
    from psycopg import Connection, Cursor
    from sqlalchemy.sql import Executable


class CompiledStatement:
    """One statement.

    Parameters
    ----------
    built
        What SQLAlchemy made; its `bindparam`s are the parameters of `run`.
    """

    def __init__(self, built: Executable) -> None:
        self._built = built

    @cached_property
    def compiled(self) -> tuple[bytes, dict[str, Any]]:
        """The text, and the values that are part of the statement. Made when first run."""
        compiled = self._built.compile(dialect=PGDialect_psycopg())  # type: ignore[attr-defined,no-untyped-call] # every construct has it
        values = {
            name: str(value) if isinstance(value, StrEnum) else value
            for name, value in compiled.params.items()
        }
        return str(compiled).encode(), values

    def run(self, connection: Connection[Any], parameters: dict[str, Any]) -> Cursor[Any]:
        """Run it; what psycopg raises is not translated here."""
        text, values = self.compiled
        return connection.execute(text, {**values, **parameters})
