"""Watches the rows while a run lasts: what must hold does so in every snapshot, not only after."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg

from tests.system.faults.meanwhile import meanwhile


if TYPE_CHECKING:
    from datetime import datetime
    from threading import Event
    from types import TracebackType
    from typing import Self

    from tests.system.faults.cluster import Cluster

INTERVAL = 0.5
"""Seconds between two looks."""

OPEN = "state IN ('scheduled', 'stopping', 'confirming')"

MISMARKED = f"""
    SELECT count(*) FROM cvms
    WHERE in_progress <> EXISTS (SELECT FROM stop_tasks WHERE cvm_id = cvms.id AND {OPEN})
"""  # noqa: S608 - the only part is the constant above

OVER_CAP = """
    SELECT vm_hosts.name, count(*) FROM stop_tasks JOIN vm_hosts ON vm_hosts.id = vm_host_id
    WHERE state = 'stopping'
    GROUP BY vm_hosts.id HAVING count(*) > max_concurrent_stops
"""

ENDED = """
    SELECT id::text, state, attempt, finished_at, error_code, error_message
    FROM stop_tasks WHERE finished_at > %s - interval '10 seconds' ORDER BY finished_at
"""
"""Ten seconds back: what ends first is not always committed first."""


class Observer:
    """A thread that looks at the rows; a context manager that ends it.

    While the database is away it sees nothing, and goes on afterwards.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.open = 0
        """Stops that were open at the last look."""
        self.looks = 0
        self.problems: set[str] = set()
        self.ended: dict[str, tuple[Any, ...]] = {}
        """Each stop that ended meanwhile, as it was when it was first seen so."""
        with cluster.connect() as connection:
            self.began: datetime = connection.execute("SELECT clock_timestamp()").fetchone()[0]  # type: ignore[index]  # there is a row
        self._seen_until = self.began
        self._watching = meanwhile(self._watch)

    def __enter__(self) -> Self:
        self._watching.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watching.__exit__(kind, error, trace)
        with self._cluster.connect() as connection:
            self._look(connection)

    def _watch(self, ending: Event) -> None:
        try:
            self._watch_until(ending)
        except Exception as error:  # noqa: BLE001 - the judgement tells of it
            self.problems.add(f"the observer broke: {error!r}")

    def _watch_until(self, ending: Event) -> None:
        while not ending.is_set():
            with suppress(psycopg.OperationalError), self._cluster.connect() as connection:
                connection.execute("SET statement_timeout = '5s'")
                while not ending.wait(INTERVAL):
                    self._look(connection)
            ending.wait(INTERVAL)

    def _look(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        """Take one look. Each question is one statement, and so sees one moment."""
        [(self.open,)] = connection.execute(f"SELECT count(*) FROM stop_tasks WHERE {OPEN}")  # noqa: S608 - a constant
        [(wrong,)] = connection.execute(MISMARKED)
        if wrong:
            self.problems.add(f"I3: {wrong} CVMs are marked wrongly as in progress or not")
        for host, running in connection.execute(OVER_CAP):
            self.problems.add(f"cap: {running} stops claimed at once on {host}")
        for row in connection.execute(ENDED, [self._seen_until]):
            self.ended.setdefault(row[0], row[1:])
            self._seen_until = row[3]
        self.looks += 1
