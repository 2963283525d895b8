"""What must hold of the rows after every step of the state machine: I3 to I5."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from shared.models.states import OPEN_STATES, WAITING_STATES, AttemptOutcome, PowerState, StopState
from shared.storage.clock import now
from shared.tables import Cvm, CvmOperation, StopAttempt, StopTask, VmHost


if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Connection, Engine, Row

    from shared.models.turns import Claim
    from tests.support.moved_clock import MovedClock


@dataclass(frozen=True)
class Rows:
    """Everything that is written down of the stops, at one moment."""

    now: datetime
    """The database's clock, before the rows were read."""
    tasks: dict[UUID, Row[Any]]
    attempts: dict[tuple[UUID, int], Row[Any]]
    cvms: dict[int, Row[Any]]
    hosts: dict[UUID, Row[Any]]
    operations: dict[int, Row[Any]]
    """By the CVM's key: what other control planes have open."""

    def count_stopping(self, vm_host_id: UUID) -> int:
        """Count the claimed stops of a host."""
        return sum(
            task.vm_host_id == vm_host_id and task.state == StopState.STOPPING
            for task in self.tasks.values()
        )

    def open_tasks(self) -> list[UUID]:
        """List the stops that have not ended, in the order in which they were accepted."""
        tasks = [task for task in self.tasks.values() if task.state in OPEN_STATES]
        return [task.id for task in sorted(tasks, key=lambda each: (each.accepted_at, each.cvm_id))]

    def ended_tasks(self) -> list[UUID]:
        """List the stops that have ended, the last accepted first."""
        tasks = [task for task in self.tasks.values() if task.state not in OPEN_STATES]
        tasks.sort(key=lambda each: (each.accepted_at, each.cvm_id), reverse=True)
        return [task.id for task in tasks]


def read_rows(connection: Connection) -> Rows:
    """Read all of it, on a connection that opens no transaction."""
    read_at = connection.execute(select(now)).scalar_one()
    tables = (StopTask, StopAttempt, Cvm, VmHost, CvmOperation)
    tasks, attempts, cvms, hosts, operations = (
        connection.execute(select(table.__table__)).all() for table in tables
    )
    return Rows(
        now=read_at,
        tasks={row.id: row for row in tasks},
        attempts={(row.stop_task_id, row.number): row for row in attempts},
        cvms={row.id: row for row in cvms},
        hosts={row.id: row for row in hosts},
        operations={row.cvm_id: row for row in operations},
    )


class Watch:
    """Compares the rows with what was promised and with what they were before.

    Parameters
    ----------
    engine
        The database.
    clock
        Says how far stored times were moved, so that rows of two moments can be compared.
    """

    def __init__(self, engine: Engine, clock: MovedClock) -> None:
        # Kept open, and without transactions: the rows are read thousands of times.
        self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._clock = clock
        self._ended: dict[object, tuple[Any, ...]] = {}
        self._attempts: dict[UUID, int] = {}
        self._wrong: list[str] = []
        self._force_stops: set[tuple[UUID, int]] = set()
        self.accepted: dict[UUID, list[UUID]] = {}
        """Batch → the stops that its answer counted as stopped."""
        self.told: dict[tuple[UUID, int], list[PowerState]] = {}
        """Stop and attempt → what the host has said to it."""
        self.rows = self.read()
        """As they were when last checked."""

    def read(self) -> Rows:
        """Read the rows as they are now."""
        return read_rows(self._connection)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def check(self) -> None:
        """Check all that can be seen in the rows."""
        assert not self._wrong, self._wrong
        self.rows = rows = self.read()
        self._check_nothing_lost(rows)
        self._check_one_operation(rows)
        self._check_caps(rows)
        self._check_attempts(rows)
        self._check_ended(rows)

    def _check_nothing_lost(self, rows: Rows) -> None:
        by_batch: dict[UUID, set[UUID]] = defaultdict(set)
        for task in rows.tasks.values():
            by_batch[task.batch_id].add(task.id)
        for batch, tasks in self.accepted.items():
            assert by_batch.pop(batch, set()) == set(tasks), "I2: an accepted stop is not there"
        assert not by_batch, "I2: a stop that nobody was told of"

    def _check_one_operation(self, rows: Rows) -> None:
        operations = Counter(rows.tasks[task].cvm_id for task in rows.open_tasks())
        operations.update(list(rows.operations))
        for cvm in rows.cvms.values():
            assert operations[cvm.id] <= 1, f"I3: two open operations on {cvm.hash_id}"
            assert cvm.in_progress == (operations[cvm.id] == 1), f"I3: in_progress of {cvm.hash_id}"

    def _check_caps(self, rows: Rows) -> None:
        for host in rows.hosts.values():
            stopping = rows.count_stopping(host.id)
            assert stopping <= host.max_concurrent_stops, f"{host.name} is over its cap"

    def _check_attempts(self, rows: Rows) -> None:
        numbers: dict[UUID, set[int]] = defaultdict(set)
        running: dict[UUID, list[int]] = defaultdict(list)
        for (task_id, number), attempt in rows.attempts.items():
            numbers[task_id].add(number)
            if attempt.outcome == AttemptOutcome.RUNNING:
                running[task_id].append(number)
            is_running = attempt.outcome == AttemptOutcome.RUNNING
            assert is_running == (attempt.finished_at is None), "I4: a half-closed attempt"
        for task in rows.tasks.values():
            assert task.attempt >= self._attempts.get(task.id, 0), "I4: the attempt went back"
            self._attempts[task.id] = task.attempt
            assert numbers[task.id] == set(range(1, task.attempt + 1)), "I4: an attempt is missing"
            expected = [task.attempt] if task.state == StopState.STOPPING else []
            assert running[task.id] == expected, f"I4: {task.state}, running: {running[task.id]}"

    def _check_ended(self, rows: Rows) -> None:
        """Once closed, a stop or an attempt stays as it is; and success was seen (I5)."""
        closed: dict[object, Row[Any]] = {
            **{key: row for key, row in rows.tasks.items() if row.finished_at is not None},
            **{key: row for key, row in rows.attempts.items() if row.finished_at is not None},
        }
        values = {key: self._unmoved(row) for key, row in closed.items()}
        for key, before in self._ended.items():
            assert values.get(key) == before, "I4: what had ended has changed"
        for key in values.keys() - self._ended.keys():
            row = closed[key]
            if isinstance(key, tuple):
                assert row.outcome != AttemptOutcome.SUCCEEDED or self._was_seen_down(key), "I5"
            elif row.state == StopState.SUCCEEDED:
                assert self._was_seen_down((row.id, row.attempt)), "I5: not seen down"
                assert row.error_code is None
            elif row.state == StopState.CANCELED:
                assert row.force_stopped_at is None, "canceled after its host took a force stop"
            else:
                assert row.state == StopState.FAILED
                assert row.error_code, "failed without a reason"
        self._ended = values

    def _was_seen_down(self, turn: tuple[UUID, int]) -> bool:
        told = self.told.get(turn)
        return told is not None and bool(told) and told[-1].is_down

    def _unmoved(self, row: Row[Any]) -> tuple[Any, ...]:
        """Give a row's values with the times that they had been written with."""
        moved = self._clock.moved
        return tuple(each + moved if isinstance(each, datetime) else each for each in row)

    def check_claimed(self, claim: Claim, *, breaker_threshold: int) -> None:
        """Check a claim that was just got: the stop was due, and its host's breaker let it in."""
        rows = self.read()
        task, host = rows.tasks[claim.stop_task_id], rows.hosts[claim.vm_host_id]
        assert task.due_at <= rows.now, "claimed before it was due"
        until = host.breaker_open_until
        assert until is None or until <= rows.now, "claimed through an open breaker"
        if host.unreachable_count >= breaker_threshold:
            assert rows.count_stopping(host.id) == 1, "two at once on a host that is on trial"

    def check_round(self, began: datetime, *, grace: timedelta) -> None:
        """Check what a dispatcher's round has left: nothing that was out of time before it."""
        rows = self.read()
        for operation in rows.operations.values():
            assert operation.expires_at > began, "an operation is past its expiry, and open"
        for task in rows.tasks.values():
            is_lapsed = task.state == StopState.STOPPING and task.lease_expires_at <= began
            is_overdue = task.state in WAITING_STATES and task.deadline_at + grace <= began
            assert not is_lapsed, "I2: a lease ran out, and the stop is not given back"
            assert not is_overdue, "I2: a stop is past its deadline, and waits"

    def check_force_stop(self, claim: Claim) -> None:
        """Check a force stop that is about to be sent: it is the attempt's first, and not late.

        What is wrong is told by the next `check`: a turn takes errors for faults of its own.
        """
        task = self.read().tasks[claim.stop_task_id]
        if (task.state, task.attempt) != (StopState.STOPPING, claim.attempt):
            self._wrong.append("I4: a force stop from a turn that has lost its stop")
        turn = (claim.stop_task_id, claim.attempt)
        if turn in self._force_stops:
            self._wrong.append("two force stops in one attempt")
        self._force_stops.add(turn)
