"""Every change of a stop's state is written down, and told to who watches its batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, text

from shared.database import driver_transaction, transaction
from shared.models.errors import ErrorCode, Fate
from shared.models.snapshots import Snapshot
from shared.services.canceling import cancel_stop
from shared.tables import StopChange
from shared.tables.stop_changes import CHANNEL
from tests.shared.services.steps import DOWN, alter, failure, got, row, settle


if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from psycopg import Connection
    from sqlalchemy import Engine

    from tests.shared.conftest import Yard


def _changes(yard: Yard, task: UUID) -> list[tuple[str, int, str | None]]:
    with transaction(yard.engine) as session:
        rows = session.scalars(
            select(StopChange).where(StopChange.stop_task_id == task).order_by(StopChange.id)
        )
        return [(change.state, change.attempt, change.error_code) for change in rows]


def test_each_step_is_written_down(yard: Yard) -> None:
    (task,) = yard.accept()
    settle(yard, got(yard, task), failure(Fate.TRANSIENT))
    alter(yard, task, "due_at = now()")
    settle(yard, got(yard, task), DOWN)
    assert _changes(yard, task) == [
        ("stopping", 1, None),
        ("scheduled", 1, ErrorCode.HOST_ERROR),
        ("stopping", 2, ErrorCode.HOST_ERROR),
        ("succeeded", 2, None),
    ]


def test_a_canceled_stop_too(yard: Yard) -> None:
    (task,) = yard.accept()
    with transaction(yard.engine) as session:
        cancel_stop(session, yard.caller, task)
    assert _changes(yard, task) == [("canceled", 0, None)]


def test_what_changes_no_state_is_no_step(yard: Yard) -> None:
    (task,) = yard.accept()
    alter(yard, task, "state = state, due_at = now()")
    assert _changes(yard, task) == []


def test_what_is_rolled_back_was_no_step(yard: Yard) -> None:
    (task,) = yard.accept()
    with pytest.raises(RuntimeError), transaction(yard.engine) as session:
        session.execute(text("UPDATE stop_tasks SET state = 'confirming'"))
        raise RuntimeError
    assert _changes(yard, task) == []


@pytest.fixture
def listening(clean: Engine) -> Iterator[Connection]:
    """A connection that hears what PostgreSQL tells."""
    connection = clean.raw_connection()
    driver = connection.driver_connection
    assert driver is not None
    driver.autocommit = True
    driver.execute(f"LISTEN {CHANNEL}")
    yield driver
    driver.execute("UNLISTEN *")
    driver.autocommit = False
    connection.close()


def test_only_who_watches_is_told(yard: Yard, listening: Connection) -> None:
    watched, other = *yard.accept(), *yard.accept()
    batch = row(yard, watched).batch_id
    alter(yard, other, "state = 'confirming'")
    with transaction(yard.engine) as session:
        session.execute(
            text("INSERT INTO batch_watches VALUES (:batch, gen_random_uuid(), now())"),
            {"batch": batch},
        )
    alter(yard, other, "state = 'scheduled'")
    alter(yard, watched, "state = 'confirming'")
    told = list(listening.notifies(timeout=30, stop_after=1))
    assert [(notify.channel, notify.payload) for notify in told] == [(CHANNEL, str(batch))]


def test_snapshots_tell_what_was_committed_between(yard: Yard) -> None:
    """Transactions that end in another order than they began: each is in one difference."""
    first, second = yard.accept(2)

    def snapshot() -> Snapshot:
        with driver_transaction(yard.engine) as connection:
            found = connection.execute("SELECT pg_current_snapshot()::text").fetchone()
            assert found is not None
            return Snapshot.parse(found[0])

    def change(connection: Connection, task: UUID) -> None:
        connection.execute("UPDATE stop_tasks SET state = 'confirming' WHERE id = %s", (task,))

    before = snapshot()
    with driver_transaction(yard.engine) as slow:
        change(slow, first)
        with driver_transaction(yard.engine) as quick:
            change(quick, second)
        between = snapshot()
    after = snapshot()
    with transaction(yard.engine) as session:
        rows = session.execute(select(StopChange.stop_task_id, StopChange.transaction)).all()
    seen = {
        task: [s.sees(number) for s in (Snapshot.of_nothing(), before, between, after)]
        for task, number in rows
    }
    assert seen == {
        first: [False, False, False, True],
        second: [False, False, True, True],
    }


class TestSnapshots:
    @given(st.integers(0, 2**62), st.sets(st.integers(0, 50), max_size=5))
    def test_text_and_back(self, xmin: int, running: set[int]) -> None:
        snapshot = Snapshot(
            xmin=xmin, xmax=xmin + 51, running=frozenset(xmin + number for number in running)
        )
        assert Snapshot.parse(str(snapshot)) == snapshot

    @pytest.mark.parametrize("wrong", ["", "1:2", "1:2:3,", "a:b:", "1:2:3 ", "-1:2:", "1:2:٣"])
    def test_anything_else_is_refused(self, wrong: str) -> None:
        with pytest.raises(ValueError, match="not a snapshot"):
            Snapshot.parse(wrong)
