"""What a host's list does to the rows, in every order of events."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import select, text

from shared.database import driver_transaction, transaction
from shared.models.batches import BatchRequest
from shared.models.inventory import CvmRecord, ListedVm, SyncCounts
from shared.models.naming import CVM_ID
from shared.models.states import PowerState
from shared.models.turns import TurnResult
from shared.services.batch_stop import accept_batch
from shared.services.cvm_file import CvmFile
from shared.services.cvm_import import import_cvms
from shared.services.inventory_sync import write_list
from shared.services.stops import ClaimedStop, claim_stop, settle_stop
from shared.storage.inventory_sync import SEEN_STEP, lock_host
from shared.tables import Cvm, CvmDrift, UnassignedVm, VmHost
from tests.support.seeds import make_caller, make_cvm, make_host, make_workspace
from tests.support.statements import statements_seen


if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from shared.models.callers import Caller
    from shared.settings import Settings

DOWN = TurnResult(power_state=PowerState.STOPPED, is_down=True, force_stopped=True)


def vm(vm_uuid: str, state: PowerState = PowerState.RUNNING, name: str = "a name") -> ListedVm:
    return ListedVm(vm_uuid=vm_uuid, name=name, power_state=state)


@dataclass
class Host:
    """One host with CVMs `vm-1`, `vm-2`, `vm-3`, of which each is running."""

    engine: Engine
    settings: Settings
    caller: Caller
    id: UUID

    def now(self) -> datetime:
        with transaction(self.engine) as session:
            time: datetime = session.execute(text("SELECT clock_timestamp()")).scalar_one()
            return time

    def sync(self, *vms: ListedVm, asked_at: datetime | None = None) -> SyncCounts | None:
        asked_at = asked_at or self.now()
        with transaction(self.engine) as session:
            return write_list(session, self.id, vms, asked_at=asked_at)

    def must_sync(self, *vms: ListedVm) -> SyncCounts:
        counts = self.sync(*vms)
        assert counts is not None
        return counts

    def cvm(self, vm_uuid: str) -> Cvm:
        with transaction(self.engine) as session:
            query = select(Cvm).where(Cvm.vm_host_id == self.id, Cvm.vm_uuid == vm_uuid)
            found = session.scalars(query).one()
            session.expunge(found)
            return found

    def status(self, vm_uuid: str) -> str:
        return self.cvm(vm_uuid).status

    def alter(self, statement: str, **values: Any) -> None:
        with transaction(self.engine) as session:
            session.execute(text(statement), {"host": self.id, **values})

    def accept(self, vm_uuid: str) -> UUID:
        """Accept a stop; gives its id."""
        request = BatchRequest(cvm_ids=(self.cvm(vm_uuid).hash_id,), request_id="test")
        with driver_transaction(self.engine) as connection:
            answer = accept_batch(connection, self.caller, request, self.settings)
        assert answer.stopped == 1
        return answer.to_send[0].stop_task_id

    def settle(self, stop: UUID, result: TurnResult = DOWN) -> None:
        """Take a turn with a stop that ends so."""
        with driver_transaction(self.engine) as connection:
            claimed = claim_stop(connection, stop, worker="w", settings=self.settings)
            assert isinstance(claimed, ClaimedStop)
        with driver_transaction(self.engine) as connection:
            assert settle_stop(connection, claimed.claim, result, settings=self.settings)

    def stop(self, vm_uuid: str) -> UUID:
        """Let a stop of a CVM succeed."""
        stop = self.accept(vm_uuid)
        self.settle(stop)
        return stop

    def drifts(self) -> list[CvmDrift]:
        with transaction(self.engine) as session:
            found = list(session.scalars(select(CvmDrift).order_by(CvmDrift.id)))
            session.expunge_all()
            return found

    def unassigned(self) -> dict[str, str]:
        with transaction(self.engine) as session:
            return {row.vm_uuid: row.name for row in session.scalars(select(UnassignedVm))}

    def row(self) -> VmHost:
        with transaction(self.engine) as session:
            found = session.get_one(VmHost, self.id)
            session.expunge(found)
            return found

    def adopt(self) -> None:
        self.alter(
            "UPDATE vm_hosts SET adopts_into = :workspace WHERE id = :host",
            workspace=self.caller.workspace_id,
        )


ALL = (vm("vm-1"), vm("vm-2"), vm("vm-3"))


@pytest.fixture
def host(clean: Engine, settings: Settings) -> Host:
    with transaction(clean) as session:
        workspace = make_workspace(session, "blue")
        caller, _ = make_caller(session, workspace, admin=True)
        row = make_host(session, name="h1")
        for number in (1, 2, 3):
            make_cvm(session, workspace, row, vm_uuid=f"vm-{number}")
        return Host(clean, settings, caller, row.id)


@contextmanager
def locked(host: Host, statement: str) -> Iterator[None]:
    """Hold rows in another transaction."""
    with psycopg.connect(host.settings.database_url.get_secret_value()) as connection:
        connection.execute(statement.encode(), {"host": host.id})
        yield
        connection.rollback()


class TestStatuses:
    def test_are_what_the_host_says(self, host: Host) -> None:
        asked_at = host.now()
        counts = host.sync(vm("vm-1"), vm("vm-2", PowerState.EXITED), vm("vm-3"), asked_at=asked_at)
        assert counts == SyncCounts(vms=3, updated=1)
        two = host.cvm("vm-2")
        assert (two.status, two.seen_at, two.vanished_at) == ("exited", asked_at, None)
        assert two.updated_at == asked_at
        assert host.row().synced_at == asked_at

    def test_a_list_that_says_nothing_new_writes_no_cvm(self, host: Host) -> None:
        host.must_sync(*ALL)
        before = host.cvm("vm-1")
        assert host.must_sync(*ALL).updated == 0
        assert host.cvm("vm-1").seen_at == before.seen_at
        with transaction(host.engine) as session:
            written = session.execute(text("SELECT count(DISTINCT xmin::text) FROM cvms"))
            assert written.scalar_one() == 1

    def test_when_it_was_seen_is_written_from_time_to_time(self, host: Host) -> None:
        host.must_sync(*ALL)
        host.alter("UPDATE cvms SET seen_at = seen_at - CAST(:step AS interval)", step=SEEN_STEP)
        updated_at = host.cvm("vm-1").updated_at
        asked_at = host.now()
        host.sync(*ALL, asked_at=asked_at)
        assert host.cvm("vm-1").seen_at == asked_at
        assert host.cvm("vm-1").updated_at == updated_at, "nothing about it has changed"

    def test_of_other_hosts_are_left_alone(self, host: Host) -> None:
        with transaction(host.engine) as session:
            other = make_host(session)
            workspace = make_workspace(session)
            there = make_cvm(session, workspace, other, vm_uuid="vm-1").id
        host.must_sync(vm("vm-1", PowerState.STOPPED))
        with transaction(host.engine) as session:
            assert session.get_one(Cvm, there).status == "running"

    def test_a_cvm_without_a_vm_is_none_of_the_hosts(self, host: Host) -> None:
        host.alter("UPDATE cvms SET vm_uuid = NULL WHERE vm_uuid = 'vm-3'")
        assert host.must_sync(*ALL[:2]).vanished == 0


class TestOpenOperations:
    def test_keep_their_cvms_state(self, host: Host) -> None:
        host.accept("vm-1")
        assert host.must_sync(vm("vm-2"), vm("vm-3")).updated == 0
        one = host.cvm("vm-1")
        assert (one.status, one.in_progress, one.vanished_at) == ("running", True, None)
        host.must_sync(vm("vm-1", PowerState.STOPPING), vm("vm-2"), vm("vm-3"))
        one = host.cvm("vm-1")
        assert (one.status, one.in_progress) == ("running", True)
        assert one.seen_at is not None, "it was listed all the same"

    def test_of_somebody_else_do_too(self, host: Host) -> None:
        """Without a stop task."""
        host.alter("UPDATE cvms SET in_progress = true WHERE vm_uuid = 'vm-1'")
        host.must_sync(vm("vm-1", PowerState.EXITED))
        assert host.status("vm-1") == "running"

    def test_a_stop_that_ended_after_the_list_was_asked_for_knows_more(self, host: Host) -> None:
        stop = host.accept("vm-1")
        asked_at = host.now()
        host.settle(stop)
        counts = host.sync(*ALL, asked_at=asked_at)
        assert counts == SyncCounts(vms=3)
        assert host.status("vm-1") == "stopped"
        assert host.drifts() == []

    def test_a_stop_that_began_and_ended_after_it_does_too(self, host: Host) -> None:
        asked_at = host.now()
        host.stop("vm-1")
        host.sync(*ALL, asked_at=asked_at)
        assert host.status("vm-1") == "stopped"
        assert host.drifts() == []

    def test_an_older_list_knows_of_no_vanishing(self, host: Host) -> None:
        asked_at = host.now()
        host.stop("vm-1")
        host.sync(*ALL[1:], asked_at=asked_at)
        one = host.cvm("vm-1")
        assert (one.status, one.vanished_at) == ("stopped", None)

    def test_what_a_stop_sees_is_seen(self, host: Host) -> None:
        host.must_sync(*ALL[1:])
        assert host.cvm("vm-1").vanished_at
        stop = host.accept("vm-1")
        before = host.now()
        host.settle(stop)
        one = host.cvm("vm-1")
        assert one.seen_at is not None
        assert one.seen_at > before
        assert one.vanished_at is None

    def test_what_a_stop_finds_absent_has_vanished(self, host: Host) -> None:
        stop = host.accept("vm-1")
        host.settle(stop, TurnResult(power_state=PowerState.ABSENT, is_down=True))
        one = host.cvm("vm-1")
        assert (one.status, one.seen_at) == ("absent", None)
        assert one.vanished_at is not None


class TestOrder:
    def test_an_older_list_than_the_one_written_down_is_dropped(self, host: Host) -> None:
        asked_at = host.now()
        host.must_sync(vm("vm-1", PowerState.STOPPED), *ALL[1:])
        assert host.sync(*ALL, asked_at=asked_at) is None
        assert host.status("vm-1") == "stopped"

    def test_a_host_that_is_gone(self, host: Host) -> None:
        with transaction(host.engine) as session:
            nobody = make_host(session).id
            session.execute(text("DELETE FROM vm_hosts WHERE id = :id"), {"id": nobody})
        with transaction(host.engine) as session:
            assert write_list(session, nobody, ALL, asked_at=host.now()) is None

    def test_a_list_ends_the_error_and_a_long_wait(self, host: Host) -> None:
        host.alter(
            "UPDATE vm_hosts SET sync_error = 'away', next_sync_at = now() + interval '1 hour'"
        )
        host.must_sync(*ALL)
        row = host.row()
        assert row.sync_error is None
        assert row.next_sync_at <= host.now()

    @pytest.mark.parametrize("stops", [False, True])
    def test_it_is_an_answer_unless_stops_get_none(self, host: Host, *, stops: bool) -> None:
        host.alter("UPDATE vm_hosts SET unreachable_since = now()")
        if stops:
            host.alter("UPDATE vm_hosts SET unreachable_count = 1")
        host.must_sync(*ALL)
        assert (host.row().unreachable_since is not None) == stops

    def test_otherwise_the_next_time_stays(self, host: Host) -> None:
        host.alter("UPDATE vm_hosts SET next_sync_at = now() + interval '1 minute'")
        wanted = host.row().next_sync_at
        host.must_sync(*ALL)
        assert host.row().next_sync_at == wanted


class TestVanished:
    def test_is_a_mark_that_is_taken_back(self, host: Host) -> None:
        host.must_sync(*ALL)
        asked_at = host.now()
        counts = host.sync(asked_at=asked_at)
        assert counts == SyncCounts(vms=0, updated=3, vanished=3)
        one = host.cvm("vm-1")
        assert (one.status, one.vanished_at) == ("absent", asked_at)
        assert host.must_sync().updated == 0
        assert host.cvm("vm-1").vanished_at == asked_at, "since when it is gone"
        assert host.must_sync(*ALL).updated == 3
        one = host.cvm("vm-1")
        assert (one.status, one.vanished_at) == ("running", None)

    def test_can_be_stopped_all_the_same(self, host: Host) -> None:
        host.must_sync()
        host.accept("vm-1")

    def test_a_cvm_that_moves_to_another_host(self, host: Host) -> None:
        host.must_sync(*ALL[1:])
        move(host, "vm-1", "h2")
        with transaction(host.engine) as session:
            moved = session.scalars(select(Cvm).where(Cvm.vm_uuid == "vm-1")).one()
            assert (moved.seen_at, moved.vanished_at) == (None, None)

    def test_a_list_from_before_it_came_does_not_miss_it(self, host: Host) -> None:
        move(host, "vm-1", "h2")
        with transaction(host.engine) as session:
            there = session.scalars(select(VmHost.id).where(VmHost.name == "h2")).one()
        asked_at = host.now()
        move(host, "vm-2", "h2", make=False)
        with transaction(host.engine) as session:
            counts = write_list(session, there, [vm("vm-1")], asked_at=asked_at)
        assert counts == SyncCounts(vms=1)


def move(host: Host, vm_uuid: str, name: str, *, make: bool = True) -> None:
    """Import a CVM anew, on another host."""
    moving = host.cvm(vm_uuid)
    record = CvmRecord(
        line=1,
        hash_id=moving.hash_id,
        name=moving.name,
        workspace="blue",
        host=name,
        vm_uuid=vm_uuid,
        status=None,
        gpu_rental_order=None,
        keeps_gpu_rental_order=True,
    )
    with transaction(host.engine) as session:
        if make:
            make_host(session, name=name)
        import_cvms(session, CvmFile(records=[record], problems=[]))


class TestUnknownVms:
    def test_are_unassigned(self, host: Host) -> None:
        asked_at = host.now()
        counts = host.sync(
            *ALL, vm("new-1", name="one"), vm("new-2", name="two"), asked_at=asked_at
        )
        assert counts == SyncCounts(vms=5, unassigned=2)
        assert host.unassigned() == {"new-1": "one", "new-2": "two"}
        host.must_sync(*ALL, vm("new-1", PowerState.STOPPED, name="eins"))
        assert host.unassigned() == {"new-1": "eins"}
        with transaction(host.engine) as session:
            row = session.scalars(select(UnassignedVm)).one()
            assert (row.power_state, row.first_seen_at) == ("stopped", asked_at)

    def test_are_no_more_when_imported(self, host: Host) -> None:
        host.must_sync(*ALL, vm("new-1"))
        with transaction(host.engine) as session:
            row = session.get_one(VmHost, host.id)
            make_cvm(session, make_workspace(session), row, vm_uuid="new-1")
        assert host.must_sync(*ALL, vm("new-1")).unassigned == 0
        assert host.unassigned() == {}

    def test_are_adopted(self, host: Host) -> None:
        host.must_sync(*ALL, vm("new-1"))
        host.adopt()
        asked_at = host.now()
        counts = host.sync(
            *ALL, vm("new-1", PowerState.STOPPED, name="one"), vm("new-2"), asked_at=asked_at
        )
        assert counts == SyncCounts(vms=5, adopted=2)
        assert host.unassigned() == {}
        new = host.cvm("new-1")
        assert CVM_ID.fullmatch(new.hash_id)
        assert new.workspace_id == host.caller.workspace_id
        assert (new.name, new.status, new.in_progress) == ("one", "stopped", False)
        assert (new.seen_at, new.vanished_at) == (asked_at, None)
        assert host.must_sync(*ALL, vm("new-1"), vm("new-2")).adopted == 0
        host.accept("new-1")

    def test_being_removed_are_not_adopted(self, host: Host) -> None:
        host.adopt()
        counts = host.must_sync(*ALL, vm("new-1", PowerState.REMOVING))
        assert counts == SyncCounts(vms=4, unassigned=1)

    def test_wait_for_an_import_that_is_under_way(self, host: Host) -> None:
        """It may be bringing these very VMs, and either would wait for the other."""
        host.adopt()
        with locked(host, "SELECT pg_advisory_xact_lock(x'63766D69'::int)"):
            assert host.must_sync(*ALL, vm("new-1")) == SyncCounts(vms=4, unassigned=1)
        assert host.must_sync(*ALL, vm("new-1")) == SyncCounts(vms=4, adopted=1)
        assert host.unassigned() == {}

    @pytest.mark.parametrize(
        ("name", "kept"),
        [
            ("nul\x00 and \x1b[2J", "nul\ufffd and \ufffd[2J"),
            ("\ud800", "\ufffd"),
            ("x" * 5_000, "x" * 200),
            (" \t ", "new-1"),
            ("", "new-1"),
        ],
    )
    def test_names_are_made_such_as_can_be_kept(self, host: Host, name: str, kept: str) -> None:
        host.must_sync(*ALL, vm("new-1", name=name))
        assert host.unassigned() == {"new-1": kept}
        host.adopt()
        host.must_sync(*ALL, vm("new-1", name=name))
        assert host.cvm("new-1").name == kept


class TestStrangeLists:
    def test_one_id_twice(self, host: Host) -> None:
        host.adopt()
        twice = [vm("new-1", name="first"), vm("new-1", PowerState.STOPPED, name="second")]
        counts = host.must_sync(*ALL, *twice, vm("vm-1", PowerState.STOPPED))
        assert counts == SyncCounts(vms=4, adopted=1, unusable=2)
        assert host.cvm("new-1").name == "first"
        assert host.status("vm-1") == "running"

    @pytest.mark.parametrize("vm_uuid", ["", "a b", "\x00", "../x", "x" * 65, "\ud800"])
    def test_ids_that_no_vm_can_have(self, host: Host, vm_uuid: str) -> None:
        host.adopt()
        assert host.must_sync(*ALL, vm(vm_uuid)) == SyncCounts(vms=3, unusable=1)

    def test_a_vm_that_is_listed_as_absent_is(self, host: Host) -> None:
        assert host.must_sync(vm("vm-1", PowerState.ABSENT), *ALL[1:]).vanished == 1


class TestDrift:
    @pytest.mark.parametrize(
        ("state", "is_drift"),
        [
            (PowerState.RUNNING, True),
            (PowerState.EXITED, True),
            (PowerState.STOPPING, True),
            (PowerState.REMOVING, False),
            (PowerState.STOPPED, False),
            (PowerState.ABSENT, False),
        ],
    )
    def test_is_running_again_after_a_stop(
        self, host: Host, state: PowerState, *, is_drift: bool
    ) -> None:
        stop = host.stop("vm-1")
        asked_at = host.now()
        counts = host.sync(vm("vm-1", state), *ALL[1:], asked_at=asked_at)
        assert counts is not None
        assert counts.drifted == is_drift
        assert host.status("vm-1") == state
        found = [(d.stop_task_id, d.vm_host_id, d.noticed_at, d.ended_at) for d in host.drifts()]
        assert found == ([(stop, host.id, asked_at, None)] if is_drift else [])

    def test_is_noticed_once(self, host: Host) -> None:
        host.stop("vm-1")
        host.must_sync(*ALL)
        assert host.must_sync(*ALL).drifted == 1
        assert len(host.drifts()) == 1

    def test_is_none_of_another_vm_that_the_cvm_has_now(self, host: Host) -> None:
        """It was stopped, and deployed anew since: nobody has stopped what runs."""
        host.stop("vm-1")
        host.alter("UPDATE cvms SET vm_uuid = 'vm-new' WHERE vm_uuid = 'vm-1'")
        assert host.must_sync(vm("vm-new"), *ALL[1:]).drifted == 0

    def test_is_none_without_a_stop_or_after_one_that_failed(self, host: Host) -> None:
        host.stop("vm-1")
        host.stop("vm-1")
        host.alter(
            "UPDATE stop_tasks SET state = 'failed'"
            " WHERE accepted_at = (SELECT max(accepted_at) FROM stop_tasks)"
        )
        host.must_sync(*ALL)
        assert host.drifts() == []

    @pytest.mark.parametrize("vms", [[vm("vm-1", PowerState.STOPPED)], []])
    def test_ends_when_seen_down_or_gone(self, host: Host, vms: list[ListedVm]) -> None:
        host.stop("vm-1")
        host.must_sync(*ALL)
        host.must_sync(vm("vm-1", PowerState.REMOVING), *ALL[1:])
        assert host.drifts()[0].ended_at is None
        asked_at = host.now()
        counts = host.sync(*vms, *ALL[1:], asked_at=asked_at)
        assert counts is not None
        assert counts.drifted == 0
        assert host.drifts()[0].ended_at == asked_at

    def test_comes_again(self, host: Host) -> None:
        host.stop("vm-1")
        for vms in (ALL, ALL[1:], ALL):
            host.must_sync(*vms)
        assert [drift.ended_at is None for drift in host.drifts()] == [False, True]

    def test_ends_when_another_stop_sees_it_down(self, host: Host) -> None:
        host.stop("vm-1")
        host.must_sync(*ALL)
        stop = host.accept("vm-1")
        assert host.drifts()[0].ended_at is None, "it runs still"
        host.must_sync(*ALL[1:])
        assert host.drifts()[0].ended_at is None, "the stop's to say"
        host.settle(stop)
        assert host.drifts()[0].ended_at is not None

    def test_goes_on_when_a_stop_does_not(self, host: Host) -> None:
        host.stop("vm-1")
        host.must_sync(*ALL)
        host.settle(host.accept("vm-1"), TurnResult(power_state=PowerState.STOPPING))
        assert host.drifts()[0].ended_at is None

    def test_is_noticed_where_the_cvm_is_now(self, host: Host) -> None:
        host.stop("vm-1")
        move(host, "vm-1", "h2")
        with transaction(host.engine) as session:
            there = session.scalars(select(VmHost.id).where(VmHost.name == "h2")).one()
        with transaction(host.engine) as session:
            write_list(session, there, [vm("vm-1")], asked_at=host.now())
        assert [drift.vm_host_id for drift in host.drifts()] == [there]


class TestLocks:
    """Whoever holds a row holds up nobody: it is right after the next sync."""

    def test_a_cvm_that_a_request_has_locked_is_left_for_later(self, host: Host) -> None:
        changed = (vm("vm-1", PowerState.EXITED), vm("vm-2", PowerState.EXITED), vm("vm-3"))
        with locked(host, "SELECT FROM cvms WHERE vm_uuid = 'vm-1' FOR UPDATE"):
            assert host.must_sync(*changed).updated == 1
        assert host.status("vm-1") == "running"
        assert host.must_sync(*changed).updated == 1
        assert host.status("vm-1") == "exited"

    @pytest.mark.parametrize("table", ["cvms", "stop_tasks"])
    def test_drift_of_it_is_noticed_later(self, host: Host, table: str) -> None:
        host.stop("vm-1")
        with locked(host, f"SELECT FROM {table} FOR UPDATE"):
            assert host.must_sync(*ALL).drifted == 0
        assert host.must_sync(*ALL).drifted == 1

    def test_no_stop_of_the_host_is_claimed_or_settled_meanwhile(self, host: Host) -> None:
        waits = "SELECT FROM vm_hosts FOR NO KEY UPDATE NOWAIT"
        with transaction(host.engine) as session:
            assert lock_host(session, host.id)
            with pytest.raises(psycopg.errors.LockNotAvailable), locked(host, waits):
                pass
        with locked(host, waits):
            pass

    def test_a_drift_that_is_being_deleted_is_not_waited_for(self, host: Host) -> None:
        host.stop("vm-1")
        host.must_sync(*ALL)
        with locked(host, "DELETE FROM cvm_drifts"):
            host.must_sync(*ALL[1:])
        host.must_sync(*ALL[1:])
        assert host.drifts()[0].ended_at is not None


def count_statements(host: Host, vms: list[ListedVm]) -> int:
    """Count what one sync sends to the database."""
    asked_at = host.now()
    with statements_seen() as statements, transaction(host.engine) as session:
        counts = write_list(session, host.id, vms, asked_at=asked_at)
    assert counts is not None
    assert counts.vms == len(vms)
    return len(statements)


def test_as_many_statements_for_a_thousand_vms_as_for_ten(host: Host) -> None:
    host.adopt()
    ten = [vm(f"few-{number}") for number in range(10)]
    thousand = [vm(f"vm-{number}") for number in range(1_000)]
    first = count_statements(host, ten)
    assert first <= 8
    assert count_statements(host, thousand) == first
    assert count_statements(host, []) == first
