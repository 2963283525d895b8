"""The SQL that this process runs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg


if TYPE_CHECKING:
    from collections.abc import Iterator

PING = str(PGDialect_psycopg()._dialect_specific_select_one)  # type: ignore[no-untyped-call] # it has no types
"""Tries a connection that was idle for a second: whether it is sent says nothing of the work."""


@contextmanager
def statements_seen() -> Iterator[list[str]]:
    """Collect the SQL that this process runs meanwhile, whoever had psycopg run it."""
    statements: list[str] = []
    execute = psycopg.Cursor.execute

    def note(self: psycopg.Cursor[Any], query: Any, *rest: Any, **named: Any) -> Any:
        if str(query) != PING:
            statements.append(str(query))
        return execute(self, query, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.Cursor, "execute", note)
        yield statements
