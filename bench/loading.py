"""Many rows, soon: CVMs, hosts, and years of stops that have ended.

Indexes, keys and references of the large tables are taken off, the rows are made inside the
server, and everything is put on again as it was, over rows that are all there.
"""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from bench.rows import (
    ATTEMPTS,
    BATCHES,
    CVMS,
    DRIFTS,
    HOSTS,
    OPEN,
    OPEN_ATTEMPTS,
    STOPS,
    WORKSPACES,
)


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from uuid import UUID

    from shared.models.callers import Caller

LARGE_TABLES = ("cvms", "stop_batches", "stop_tasks", "stop_attempts", "cvm_drifts")
"""Tables that grow."""

PER_BATCH = 10
"""Stops of one batch on record."""

SIDE_BY_SIDE = 2
"""Statements at once."""

OPTIONS = "-c maintenance_work_mem=256MB -c work_mem=256MB -c synchronous_commit=off"
"""Of the connections that load."""

CONSTRAINTS = """
SELECT conrelid::regclass::text, quote_ident(conname), contype::text, pg_get_constraintdef(oid)
FROM pg_constraint
WHERE conrelid = ANY(%(large)s::regclass[]) AND contype IN ('p', 'u', 'f')
    OR confrelid = ANY(%(large)s::regclass[])
ORDER BY conrelid::regclass::text, conname
"""
"""Of the large tables; and of small ones, what refers to a large one and so holds on to its key."""

INDEXES = """
SELECT indrelid::regclass::text, indexrelid::regclass::text, pg_get_indexdef(indexrelid)
FROM pg_index
WHERE indrelid = ANY(%s::regclass[])
  AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND contype IN ('p', 'u'))
ORDER BY 1, 2
"""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """How many of each."""

    cvms: int
    """A multiple of `PER_BATCH`; numbered from 0, one host after the other."""
    hosts: int = 1
    workspaces: int = 1
    finished: int = 0
    """Stops that have ended, each with an attempt; one in twenty failed. One a minute."""
    open: int = 0
    """Stops that have not; of the last CVMs. Fewer than `cvms`.

    They come after PostgreSQL has counted everything, as they do where it counts again only when a
    tenth of a large table has changed.
    """
    drifted: int = 0
    """CVMs that run though their stop has succeeded, a divisor of `cvms` and of `finished` at most;
    of ten times as many that is over.
    """
    cap: int = 8
    """Of each host."""


def load(database_url: str, rows: Rows, caller: Caller) -> None:
    """Fill a database in which there are no hosts and no CVMs yet.

    Parameters
    ----------
    database_url
        Of a migrated database.
    rows
        How many rows.
    caller
        Who asked for every stop; the first workspace is theirs.
    """
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(WORKSPACES, {"count": rows.workspaces})
        connection.execute(HOSTS, {"count": rows.hosts, "cap": rows.cap})
        values = _values(connection, rows, caller)
        taken_off = _take_off(connection)
    statements = [STOPS, ATTEMPTS, CVMS, BATCHES, DRIFTS]
    _run(database_url, [[statement] for statement in statements], values)
    for statements_by_table in taken_off:
        _run(database_url, statements_by_table)
    vacuum = [[f"VACUUM (ANALYZE) {table}"] for table in (*LARGE_TABLES, "vm_hosts", "workspaces")]
    _run(database_url, vacuum)
    _run(database_url, [[OPEN, OPEN_ATTEMPTS]], values)
    _run(database_url, [["SELECT setval(pg_get_serial_sequence('cvms', 'id'), max(id)) FROM cvms"]])
    _run(database_url, [["CHECKPOINT"]])


def _values(
    connection: psycopg.Connection[Any], rows: Rows, caller: Caller
) -> Mapping[str, object]:
    def ids(statement: str, *parameters: object) -> list[UUID]:
        return [row[0] for row in connection.execute(statement.encode(), parameters)]

    return {
        "workspaces": [
            caller.workspace_id,
            *ids(
                "SELECT id FROM workspaces WHERE id <> %s ORDER BY name LIMIT %s",
                caller.workspace_id,
                rows.workspaces - 1,
            ),
        ],
        "hosts": ids("SELECT id FROM vm_hosts ORDER BY name"),
        "user": caller.user_id,
        "key": caller.api_key_id,
        "workspace_count": rows.workspaces,
        "host_count": rows.hosts,
        "cvms": rows.cvms,
        "finished": rows.finished,
        "open": rows.open,
        "drifted": rows.drifted,
        "per_batch": PER_BATCH,
    }


def _take_off(connection: psycopg.Connection[Any]) -> list[list[list[str]]]:
    """Take off what slows loading down; gives what puts it on again.

    In two steps, first what references need; each step has a list for each table.
    """
    keys: dict[str, list[str]] = {table: [] for table in LARGE_TABLES}
    references: dict[str, list[str]] = defaultdict(list)
    constraints = connection.execute(CONSTRAINTS, {"large": list(LARGE_TABLES)}).fetchall()
    for table, name, kind, definition in constraints:
        put_on = f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}"
        (references if kind == "f" else keys)[table].append(put_on)
    # References first: they hold on to the keys that they refer to.
    for table, name, _, _ in sorted(constraints, key=lambda row: str(row[2]) != "f"):
        connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}".encode())
    for table, name, definition in connection.execute(INDEXES, [list(LARGE_TABLES)]).fetchall():
        keys[table].append(definition)
        connection.execute(f"DROP INDEX {name}".encode())
    # Those of `stop_tasks` take longest. References lock both tables: one after the other.
    return [
        sorted(keys.values(), key=len, reverse=True),
        [[statement for statements in references.values() for statement in statements]],
    ]


def _run(
    database_url: str,
    side_by_side: Iterable[list[str]],
    values: Mapping[str, object] | None = None,
) -> None:
    """Run lists of statements side by side; those of one list one after the other."""

    def run(statements: list[str]) -> None:
        with psycopg.connect(database_url, autocommit=True, options=OPTIONS) as connection:
            for statement in statements:
                connection.execute(statement.encode(), values)

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        list(pool.map(run, side_by_side))
