"""What is older than the retention goes, whole batches at a time, and nothing else does."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from sqlalchemy import func, select, text
from structlog.testing import capture_logs

import workers.purge
from shared.database import driver_of, transaction
from shared.exceptions import DatabaseUnavailableError, NotFoundError
from shared.models.batches import BatchRequest
from shared.models.states import OPEN_STATES, StopState
from shared.services.batch_stop import accept_batch
from shared.services.stop_records import find_batch, find_stop
from shared.services.stops import ClaimedStop, claim_stop
from shared.storage.purging import Purged, delete_oldest
from shared.tables import Cvm, CvmDrift, StopAttempt, StopBatch, StopChange, StopTask
from tests.support.waiting import wait_until
from workers.purge import purge, run_purge


if TYPE_CHECKING:
    from tests.shared.conftest import Yard

RETENTION = 90 * 86_400
"""Seconds: the default."""


def accept(yard: Yard, stops: int = 1, *, key: str | None = None) -> UUID:
    """Accept a batch; gives its id."""
    request = BatchRequest(cvm_ids=(), request_id="test", idempotency_key=key)
    if stops:
        (task, *_) = yard.accept(stops)
        with transaction(yard.engine) as session:
            return session.get_one(StopTask, task).batch_id
    with transaction(yard.engine) as session:
        batch_id = accept_batch(driver_of(session), yard.caller, request, yard.settings).batch_id
    assert batch_id is not None
    return batch_id


def alter(yard: Yard, change: str, **values: object) -> None:
    with transaction(yard.engine) as session:
        session.execute(text(change), values)


def end(yard: Yard, *, claimed: bool = False) -> None:
    """Let every stop end, after an attempt each if wanted."""
    if claimed:
        with transaction(yard.engine) as session:
            for task in session.scalars(select(StopTask.id)).all():
                found = claim_stop(driver_of(session), task, worker="w1", settings=yard.settings)
                assert isinstance(found, ClaimedStop)
    alter(
        yard,
        "UPDATE stop_tasks SET state = 'succeeded', lease_expires_at = NULL, finished_at = now()",
    )
    alter(yard, "UPDATE cvms SET in_progress = false")


def grow_old(yard: Yard, seconds: float = RETENTION, batch: UUID | None = None) -> None:
    """Let so much time pass for a batch, or for all of them."""
    alter(
        yard,
        "UPDATE stop_batches SET accepted_at = accepted_at - make_interval(secs => :seconds)"
        " WHERE CAST(:batch AS uuid) IS NULL OR id = :batch",
        seconds=seconds,
        batch=batch,
    )


def left(yard: Yard) -> tuple[int, ...]:
    """Count batches, stops and attempts."""
    with transaction(yard.engine) as session:
        return tuple(
            session.scalars(select(func.count()).select_from(table)).one()
            for table in (StopBatch, StopTask, StopAttempt)
        )


def batches(yard: Yard) -> set[UUID]:
    with transaction(yard.engine) as session:
        return set(session.scalars(select(StopBatch.id)))


def run(yard: Yard, **settings: float) -> Purged:
    return run_purge(yard.engine, yard.settings.model_copy(update=settings))


class TestWhatGoes:
    def test_an_old_batch_with_its_stops_and_attempts(self, yard: Yard) -> None:
        accept(yard, 3)
        end(yard, claimed=True)
        grow_old(yard)
        assert left(yard) == (1, 3, 3)
        with capture_logs() as logged:
            assert run(yard) == Purged(batches=1, stops=3)
        assert left(yard) == (0, 0, 0)
        assert logged == [{"event": "purged", "batches": 1, "stops": 3, "log_level": "info"}]

    def test_with_every_change_of_its_stops(self, yard: Yard) -> None:
        accept(yard, 2)
        end(yard, claimed=True)
        (open_one,) = yard.accept()
        alter(yard, "UPDATE stop_tasks SET state = 'confirming' WHERE id = :id", id=open_one)
        grow_old(yard)
        run(yard)
        with transaction(yard.engine) as session:
            assert session.scalars(select(StopChange.stop_task_id)).all() == [open_one]

    def test_one_without_stops(self, yard: Yard) -> None:
        accept(yard, 0)
        grow_old(yard)
        assert run(yard) == Purged(batches=1, stops=0)

    def test_the_cvm_stays_and_can_be_stopped_again(self, yard: Yard) -> None:
        old = accept(yard)
        end(yard)
        grow_old(yard)
        run(yard)
        with transaction(yard.engine) as session:
            cvm = session.scalars(select(Cvm.hash_id)).one()
            request = BatchRequest(cvm_ids=(cvm,), request_id="test")
            again = accept_batch(driver_of(session), yard.caller, request, yard.settings)
            assert again.stopped == 1
            with pytest.raises(NotFoundError):
                find_batch(session, yard.caller, old)

    def test_a_stop_that_is_gone_is_not_found(self, yard: Yard) -> None:
        (task,) = yard.accept()
        end(yard)
        grow_old(yard)
        run(yard)
        with transaction(yard.engine) as session, pytest.raises(NotFoundError):
            find_stop(session, yard.caller, task)

    def test_its_idempotency_key_is_forgotten(self, yard: Yard) -> None:
        old = accept(yard, 0, key="once")
        assert accept(yard, 0, key="once") == old
        grow_old(yard)
        run(yard)
        assert accept(yard, 0, key="once") != old

    def test_the_oldest_first(self, yard: Yard) -> None:
        made = [accept(yard, 0) for _ in range(3)]
        grow_old(yard)
        grow_old(yard, 60, made[1])
        with transaction(yard.engine) as session:
            delete_oldest(
                session.connection(), older_than=timedelta(seconds=RETENTION), limit=1, attempts=9
            )
        assert batches(yard) == {made[0], made[2]}


class TestWhatStays:
    def test_what_is_not_old_enough(self, yard: Yard) -> None:
        accept(yard)
        old = accept(yard)
        end(yard)
        grow_old(yard, RETENTION - 60)
        with capture_logs() as logged:
            assert run(yard) == Purged()
        assert logged == []
        grow_old(yard, 60, old)
        assert run(yard) == Purged(batches=1, stops=1)
        assert old not in batches(yard)

    @pytest.mark.parametrize("state", OPEN_STATES)
    def test_a_batch_with_an_open_stop_wholly(self, yard: Yard, state: StopState) -> None:
        kept = accept(yard, 3)
        accept(yard, 3)
        end(yard, claimed=True)
        grow_old(yard)
        alter(
            yard,
            "UPDATE stop_tasks SET state = :state, finished_at = NULL, lease_expires_at ="
            " CASE WHEN :state = 'stopping' THEN now() END"
            " WHERE id = (SELECT id FROM stop_tasks WHERE batch_id = :batch LIMIT 1)",
            state=state,
            batch=kept,
        )
        assert run(yard) == Purged(batches=1, stops=3)
        assert batches(yard) == {kept}
        assert left(yard) == (1, 3, 3)

    def test_everything_without_a_retention(self, yard: Yard) -> None:
        accept(yard, 0)
        grow_old(yard, 10 * RETENTION)
        assert run(yard, retention=0) == Purged()
        assert left(yard) == (1, 0, 0)


class TestInPieces:
    def test_a_transaction_deletes_so_many_batches(self, yard: Yard) -> None:
        for _ in range(45):
            accept(yard, 0)
        grow_old(yard)
        pieces = purge(yard.engine, older_than=timedelta(seconds=RETENTION))
        assert next(pieces).batches == 20
        assert left(yard) == (25, 0, 0)
        assert [piece.batches for piece in pieces] == [20, 5]

    def test_many_attempts_are_fewer_batches(self, yard: Yard) -> None:
        for stops in (2, 2, 3, 1):
            accept(yard, stops)
        end(yard)
        alter(yard, "UPDATE stop_tasks SET attempt = 2000")
        grow_old(yard)
        pieces = purge(yard.engine, older_than=timedelta(seconds=RETENTION))
        # The third one alone has more than a transaction may delete.
        assert [piece.stops for piece in pieces] == [2, 2, 3, 1]

    def test_a_round_ends_after_a_while(self, yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
        for _ in range(21):
            accept(yard, 0)
        grow_old(yard)
        monkeypatch.setattr(workers.purge, "ROUND_SECONDS", 0)
        assert run(yard).batches == 20
        assert run(yard).batches == 1

    def test_what_was_deleted_before_the_database_went_is_told(
        self, yard: Yard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for _ in range(21):
            accept(yard, 0)
        grow_old(yard)

        def delete_once(*arguments: object, **options: object) -> Purged:
            monkeypatch.setattr(workers.purge, "delete_oldest", fail)
            return delete_oldest(*arguments, **options)  # type: ignore[arg-type] # passed on

        def fail(*_: object, **__: object) -> Purged:
            msg = "away"
            raise DatabaseUnavailableError(msg)

        monkeypatch.setattr(workers.purge, "delete_oldest", delete_once)
        with capture_logs() as logged, pytest.raises(DatabaseUnavailableError):
            run(yard)
        assert [line["batches"] for line in logged] == [20]
        assert left(yard) == (1, 0, 0)


class TestSeveralAtOnce:
    def test_what_another_is_deleting_is_passed_over(self, yard: Yard) -> None:
        for _ in range(3):
            accept(yard, 0)
        grow_old(yard)
        older_than = timedelta(seconds=RETENTION)
        with transaction(yard.engine) as first, transaction(yard.engine) as second:
            taken = delete_oldest(first.connection(), older_than=older_than, limit=2, attempts=9)
            assert taken.batches == 2
            rest = delete_oldest(second.connection(), older_than=older_than, limit=9, attempts=9)
            assert rest.batches == 1
        assert left(yard) == (0, 0, 0)

    def test_four_delete_each_batch_once(self, yard: Yard) -> None:
        for _ in range(60):
            accept(yard, 0)
        accept(yard, 40)
        end(yard)
        grow_old(yard)
        done: list[Purged] = []
        threads = [threading.Thread(target=lambda: done.append(run(yard))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(done, Purged()) == Purged(batches=61, stops=40)
        assert left(yard) == (0, 0, 0)


class TestDrifts:
    """What says that a CVM ran again after a stop goes with the stop."""

    def drifted(self, yard: Yard) -> UUID:
        """Give a batch with stops that were followed by a drift, one open and one ended."""
        batch = accept(yard, 3)
        end(yard)
        alter(
            yard,
            "INSERT INTO cvm_drifts (cvm_id, stop_task_id, vm_host_id, ended_at)"
            " SELECT cvm_id, id, vm_host_id, CASE WHEN n = 2 THEN now() END FROM"
            " (SELECT *, row_number() OVER () AS n FROM stop_tasks WHERE batch_id = :batch) AS stop"
            " WHERE n < 3",
            batch=batch,
        )
        return batch

    def drifts(self, yard: Yard) -> int:
        with transaction(yard.engine) as session:
            return session.scalars(select(func.count()).select_from(CvmDrift)).one()

    def test_go_with_their_stops(self, yard: Yard) -> None:
        self.drifted(yard)
        grow_old(yard)
        assert run_purge(yard.engine, yard.settings) == Purged(batches=1, stops=3)
        assert self.drifts(yard) == 0

    def test_of_others_stay(self, yard: Yard) -> None:
        old = self.drifted(yard)
        grow_old(yard, batch=old)
        self.drifted(yard)
        assert self.drifts(yard) == 4
        assert run_purge(yard.engine, yard.settings).batches == 1
        assert self.drifts(yard) == 2

    def test_a_sync_that_is_noticing_one_is_waited_for(self, yard: Yard) -> None:
        """Its drift is not there yet when the purge begins, and refers to a stop that goes."""
        accept(yard, 1)
        end(yard)
        grow_old(yard)
        done = []
        with transaction(yard.engine) as session:
            session.execute(text("SELECT FROM stop_tasks FOR KEY SHARE"))
            session.execute(
                text(
                    "INSERT INTO cvm_drifts (cvm_id, stop_task_id, vm_host_id)"
                    " SELECT cvm_id, id, vm_host_id FROM stop_tasks"
                )
            )
            purging = threading.Thread(
                target=lambda: done.append(run_purge(yard.engine, yard.settings))
            )
            purging.start()
            waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            wait_until(
                lambda: session.execute(waiting).scalar_one() > 0, what="the purge waits for it"
            )
        purging.join(30)
        assert done == [Purged(batches=1, stops=1)]
        assert self.drifts(yard) == 0
