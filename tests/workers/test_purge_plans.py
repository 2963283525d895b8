"""No statement of the purge reads a large table from end to end."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import pytest
from sqlalchemy import text

from shared.database import transaction, unbounded
from shared.storage.purging import Purged, delete_oldest


if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tests.shared.conftest import Yard

BATCHES = 1_000
"""A day apart, the newest one a day old."""

STOPS = 10
"""In each batch, with an attempt and a drift each."""

FILL = """
WITH made AS (
    INSERT INTO stop_batches (workspace_id, user_id, api_key_id, by_admin, request_id, total,
                              stopped, skipped, errors, accepted_at)
    SELECT :workspace, :user, :key, true, 'test', :stops, :stops, 0, '[]',
           now() - make_interval(days => n)
    FROM generate_series(1, :batches) n
    RETURNING id, accepted_at
), stops AS (
    INSERT INTO stop_tasks (batch_id, cvm_id, workspace_id, vm_host_id, vm_uuid, request_id, state,
                            attempt, accepted_at, deadline_at, finished_at)
    SELECT made.id, cvms.id, :workspace, cvms.vm_host_id, cvms.vm_uuid, 'test', 'succeeded', 1,
           accepted_at, accepted_at, accepted_at
    FROM made, cvms WHERE cvms.id <= :stops
    RETURNING id, accepted_at, cvm_id, vm_host_id
), drifts AS (
    INSERT INTO cvm_drifts (cvm_id, stop_task_id, vm_host_id, noticed_at, ended_at)
    SELECT cvm_id, id, vm_host_id, accepted_at, accepted_at FROM stops
)
INSERT INTO stop_attempts (stop_task_id, number, worker, started_at, finished_at, outcome)
SELECT id, 1, 'w1', accepted_at, accepted_at, 'succeeded' FROM stops
"""

REOPEN = """
WITH ranked AS (
    SELECT id, row_number() OVER (ORDER BY accepted_at) AS age FROM stop_batches
), opened AS (
    SELECT DISTINCT ON (ranked.id) stop_tasks.id, age
    FROM ranked JOIN stop_tasks ON batch_id = ranked.id
    WHERE age <= :oldest OR age > :batches - :newest
)
UPDATE stop_tasks SET state = 'scheduled', finished_at = NULL, cvm_id = :stops + age
FROM opened WHERE stop_tasks.id = opened.id
"""
"""Opens one stop in each of the oldest and the newest batches, each of a CVM of its own."""

CVMS = """
INSERT INTO cvms (hash_id, name, workspace_id, vm_host_id, vm_uuid, status)
SELECT 'cvm_more' || n, 'more', workspace_id, vm_host_id, 'vm ' || n, 'running'
FROM cvms, generate_series(1, :batches) n WHERE cvms.id = 1
"""


@pytest.fixture
def crowded(yard: Yard) -> Yard:
    """Tables in which reading from end to end is not the quickest."""
    yard.accept(STOPS)
    with transaction(yard.engine) as session, unbounded(session.connection()):
        session.execute(text("DELETE FROM stop_tasks"))
        session.execute(text("DELETE FROM stop_batches"))
        session.execute(
            text(FILL),
            {
                "workspace": yard.caller.workspace_id,
                "user": yard.caller.user_id,
                "key": yard.caller.api_key_id,
                "batches": BATCHES,
                "stops": STOPS,
            },
        )
        session.execute(text(CVMS), {"batches": BATCHES})
        session.execute(text("ANALYZE stop_batches, stop_tasks, stop_attempts, cvm_drifts"))
    return yard


class Reads(NamedTuple):
    """Rows that were read from a table."""

    end_to_end: int
    by_index: int


def reads(connection: Connection) -> dict[str, Reads]:
    """Count what this session has read from each table, in PostgreSQL's own words."""
    rows = connection.exec_driver_sql(
        "SELECT relname, seq_tup_read, idx_tup_fetch FROM pg_stat_xact_user_tables"
        " WHERE relname IN ('stop_batches', 'stop_tasks', 'stop_attempts', 'cvm_drifts')"
    )
    return {name: Reads(*counts) for name, *counts in rows}


@pytest.mark.parametrize("plans", ["force_generic_plan", "force_custom_plan"])
def test_only_what_is_old_is_read(crowded: Yard, plans: str) -> None:
    half, all_of_it = BATCHES // 2, BATCHES + 1
    for case, days, kept, newest, deleted in [
        ("much is old", half, 0, 0, 20),
        ("nothing is old enough", all_of_it, 0, 0, 0),
        ("open stops keep the oldest", half, 50, 0, 20),
        ("open stops keep all that is old", BATCHES - 49, 50, 0, 0),
        ("much is stopped just now", BATCHES - 199, 0, BATCHES - 200, 20),
    ]:
        with crowded.engine.connect() as connection:
            connection.exec_driver_sql(f"SET LOCAL plan_cache_mode = {plans}")
            connection.execute(
                text(REOPEN),
                {"oldest": kept, "newest": newest, "batches": BATCHES, "stops": STOPS},
            )
            before = reads(connection)
            done = delete_oldest(
                connection, older_than=timedelta(days=days), limit=20, attempts=900
            )
            after = reads(connection)
        assert done == Purged(batches=deleted, stops=deleted * STOPS), case
        for table in before:
            rows = 1 if table == "stop_batches" else STOPS
            then, now = before[table], after[table]
            assert now.end_to_end == then.end_to_end, (case, table)
            # Some for finding, some for deleting, some for what might still refer to it.
            assert now.by_index - then.by_index <= 10 + 4 * (deleted + kept) * rows, (case, table)
