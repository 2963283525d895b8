"""A clock that a test moves: the database's, and the workers' with it."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import DateTime

from shared.tables import Base


if TYPE_CHECKING:
    from sqlalchemy import Engine


class MovedClock:
    """Lets time pass without waiting, by moving every time in the database into the past.

    That equals a database whose clock has moved on. Rows are only ever compared with the
    database's clock, and with each other; none is compared with a date that stands in the code. To
    take the same step from every stored time leaves each difference between two of them as it was,
    and adds the step to each difference between the clock and one of them, which is all that a
    later clock would do. No transaction may be open that has read a time before.

    Parameters
    ----------
    engine
        The database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.moved = timedelta()
        """How far the clock has moved; what a stored time has lost since it was first written."""

    def monotonic(self) -> float:
        """Seconds, as `time.monotonic()` of the workers' machines would give them."""
        return time.monotonic() + self.moved.total_seconds()

    def advance(self, seconds: int) -> None:
        """Let whole seconds pass: PostgreSQL keeps times exact, so they can be added back."""
        with self._engine.begin() as connection:
            connection.exec_driver_sql(";".join(_moves(seconds)))
        self.moved += timedelta(seconds=seconds)


def _moves(seconds: int) -> list[str]:
    """Make the statements. The columns come from the tables, so that no new one is forgotten."""
    moves: list[str] = []
    for table in Base.metadata.tables.values():
        times = [column.name for column in table.columns if isinstance(column.type, DateTime)]
        changes = ", ".join(f"{name} = {name} - interval '{seconds} seconds'" for name in times)
        if times:
            moves.append(f"UPDATE {table.name} SET {changes}")  # noqa: S608 - our own tables
    return moves
