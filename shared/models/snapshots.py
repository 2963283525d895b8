"""What of a table had been committed at one moment, as PostgreSQL says it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Self


_TEXT = re.compile(r"([0-9]{1,19}):([0-9]{1,19}):((?:[0-9]{1,19}(?:,[0-9]{1,19})*)?)")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A `pg_snapshot`: which transactions had ended. A set of rows that only ever grows.

    What one snapshot sees and an earlier one does not is exactly what was committed between them,
    in whatever order. Source: PostgreSQL 18, 9.28 "Transaction ID and Snapshot Information".
    """

    xmin: int
    """Every transaction below this one had ended."""
    xmax: int
    """None from this one on had."""
    running: frozenset[int] = field(default_factory=frozenset)
    """Those between the two that had not."""

    @classmethod
    def of_nothing(cls) -> Self:
        """Give the one that sees no row at all."""
        return cls(xmin=0, xmax=0)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what PostgreSQL writes: `xmin:xmax:running,running`.

        Raises
        ------
        ValueError
            It is not like that.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            msg = "not a snapshot: xmin:xmax:running,running"
            raise ValueError(msg)
        xmin, xmax, running = match.groups()
        return cls(
            xmin=int(xmin),
            xmax=int(xmax),
            running=frozenset(map(int, running.split(","))) if running else frozenset(),
        )

    def __str__(self) -> str:
        """Write it as PostgreSQL does."""
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, sorted(self.running)))}"

    def sees(self, transaction: int) -> bool:
        """Say whether what a transaction wrote was there."""
        return transaction < self.xmax and transaction not in self.running

    def up_to(self, xmax: int) -> Self:
        """Give the part of it below a transaction."""
        return type(self)(
            xmin=min(self.xmin, xmax),
            xmax=min(self.xmax, xmax),
            running=frozenset(each for each in self.running if each < xmax),
        )
