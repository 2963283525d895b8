"""Operations of other control planes beside stops, imports and removals."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError

from shared.database import driver_transaction, transaction
from shared.exceptions import CvmBusyError, ImportRefusedError, RemovalRefusedError
from shared.models.batches import BatchRequest
from shared.models.inventory import CvmRecord
from shared.services.batch_stop import accept_batch
from shared.services.cvm_file import CvmFile
from shared.services.cvm_import import import_cvms
from shared.services.operations import clear_operation, put_operation
from shared.services.removal import remove_cvms
from shared.storage.cvm_records import delete_cvms
from shared.storage.operations import end_expired
from shared.tables import Cvm, CvmOperation, VmHost, Workspace
from tests.support.seeds import make_cvm, make_host, make_workspace
from tests.support.waiting import wait_until


if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

    from tests.shared.conftest import Yard

HOUR = timedelta(hours=1)


@pytest.fixture
def cvm_id(yard: Yard) -> str:
    with transaction(yard.engine) as session:
        return make_cvm(session, make_workspace(session), make_host(session)).hash_id


def put(session: Session, yard: Yard, cvm_id: str) -> None:
    put_operation(session, yard.caller, cvm_id, name="resize", expires_in=HOUR)


def stopped(yard: Yard, cvm_id: str) -> int:
    request = BatchRequest(cvm_ids=(cvm_id,), request_id="test")
    with driver_transaction(yard.engine) as connection:
        return accept_batch(connection, yard.caller, request, yard.settings).stopped


def in_progress(engine: Engine, cvm_id: str) -> bool:
    with transaction(engine) as session:
        return session.scalars(select(Cvm.in_progress).where(Cvm.hash_id == cvm_id)).one()


class Waiting:
    """Something that another thread does, and that has to wait for a lock first."""

    def __init__(self, engine: Engine, do: Callable[[], object]) -> None:
        self._engine = engine
        self._do = do
        self.outcome: object = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.outcome = self._do()
        except CvmBusyError as error:
            self.outcome = error

    def start(self) -> None:
        """Come back once it waits."""
        self._thread.start()
        blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        with self._engine.connect() as connection:
            wait_until(
                lambda: connection.exec_driver_sql(blocked).scalar_one(), what="it waits for a lock"
            )

    def end(self) -> object:
        self._thread.join()
        return self.outcome


class TestBesideStops:
    def test_a_stop_that_is_just_being_accepted_comes_first(self, yard: Yard, cvm_id: str) -> None:
        def say_so() -> None:
            with transaction(yard.engine) as session:
                put(session, yard, cvm_id)

        other = Waiting(yard.engine, say_so)
        request = BatchRequest(cvm_ids=(cvm_id,), request_id="test")
        with driver_transaction(yard.engine) as connection:
            assert accept_batch(connection, yard.caller, request, yard.settings).stopped == 1
            other.start()
        assert isinstance(other.end(), CvmBusyError)

    def test_an_operation_that_is_just_being_written_comes_first(
        self, yard: Yard, cvm_id: str
    ) -> None:
        request = Waiting(yard.engine, lambda: stopped(yard, cvm_id))
        with transaction(yard.engine) as session:
            put(session, yard, cvm_id)
            request.start()
        assert request.end() == 0


class TestExpiry:
    @pytest.fixture
    def expired(self, yard: Yard, cvm_id: str) -> str:
        with transaction(yard.engine) as session:
            put(session, yard, cvm_id)
            session.execute(update(CvmOperation).values(expires_at=func.now()))
        return cvm_id

    def end(self, yard: Yard, *, limit: int = 10) -> int:
        with transaction(yard.engine) as session:
            return end_expired(session, limit=limit)

    def test_a_batch_at_a_time(self, yard: Yard) -> None:
        with transaction(yard.engine) as session:
            workspace = make_workspace(session)
            for _ in range(5):
                put(session, yard, make_cvm(session, workspace).hash_id)
            session.execute(update(CvmOperation).values(expires_at=func.now()))
        assert [self.end(yard, limit=2) for _ in range(4)] == [2, 2, 1, 0]
        with transaction(yard.engine) as session:
            assert not session.scalars(select(Cvm).where(Cvm.in_progress)).all()

    def test_one_that_is_just_being_renewed_is_passed_over(self, yard: Yard, expired: str) -> None:
        with transaction(yard.engine) as session:
            put(session, yard, expired)
            assert self.end(yard) == 0
        assert self.end(yard) == 0
        assert in_progress(yard.engine, expired)

    def test_a_cvm_that_a_request_has_locked_is_passed_over(self, yard: Yard, expired: str) -> None:
        request = BatchRequest(cvm_ids=(expired,), request_id="test")
        with driver_transaction(yard.engine) as connection:
            assert accept_batch(connection, yard.caller, request, yard.settings).skipped == 1
            assert self.end(yard) == 0
        assert self.end(yard) == 1
        assert not in_progress(yard.engine, expired)

    def test_two_dispatchers_at_once(self, yard: Yard, expired: str) -> None:
        with transaction(yard.engine) as session:
            assert end_expired(session, limit=10) == 1
            assert self.end(yard) == 0
        assert not in_progress(yard.engine, expired)


def test_a_cvm_that_another_works_on_is_not_removed(yard: Yard, cvm_id: str) -> None:
    with transaction(yard.engine) as session:
        put(session, yard, cvm_id)
    with (
        pytest.raises(RemovalRefusedError, match=f"an operation is in progress on {cvm_id}"),
        transaction(yard.engine) as session,
    ):
        remove_cvms(session, [cvm_id])
    with pytest.raises(IntegrityError), transaction(yard.engine) as session:
        delete_cvms(session, [cvm_id])
    with transaction(yard.engine) as session:
        clear_operation(session, cvm_id)
        assert remove_cvms(session, [cvm_id]) == 1


def test_an_import_leaves_it_in_progress_and_where_it_is(yard: Yard, cvm_id: str) -> None:
    with transaction(yard.engine) as session:
        put(session, yard, cvm_id)
        cvm = session.scalars(select(Cvm).where(Cvm.hash_id == cvm_id)).one()
        record = CvmRecord(
            line=1,
            hash_id=cvm_id,
            name="another name",
            workspace=session.get_one(Workspace, cvm.workspace_id).name,
            host=session.get_one(VmHost, cvm.vm_host_id).name,
            vm_uuid=cvm.vm_uuid,
            status="stopped",
            gpu_rental_order=None,
            keeps_gpu_rental_order=True,
        )
    with transaction(yard.engine) as session:
        import_cvms(session, CvmFile(records=[record], problems=[]))
    assert in_progress(yard.engine, cvm_id)
    moved = replace(record, vm_uuid="another-vm")
    with (
        pytest.raises(ImportRefusedError, match="has an operation in progress"),
        transaction(yard.engine) as session,
    ):
        import_cvms(session, CvmFile(records=[moved], problems=[]))
