"""Reading lists of real simulated hosts, well and not well."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import select, text
from structlog.testing import capture_logs

from shared.database import driver_transaction, transaction
from shared.engine import make_engine
from shared.exceptions import DatabaseUnavailableError
from shared.models.batches import BatchRequest
from shared.models.hosts import HostCredentials
from shared.models.states import PowerState
from shared.models.turns import TurnResult
from shared.sealing import Sealer, new_sealing_key
from shared.services.batch_stop import accept_batch
from shared.services.inventory_sync import write_list
from shared.services.stops import ClaimedStop, claim_stop, settle_stop
from shared.tables import Cvm, CvmDrift, VmHost
from tests.support.seeds import make_cvm, make_host, make_workspace
from tests.support.silent_server import silent_server
from tests.support.simulated_host import simulated_host
from workers import inventory
from workers.drivers.registry import Drivers
from workers.inventory import BREAKER_OPEN, GONE, NO_PLACE, SUPERSEDED, HostSyncs


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from shared.models.inventory import HostToSync, ListedVm
    from tests.shared.conftest import Yard
    from tests.support.simulated_host import SimulatedHost

DOWN = TurnResult(power_state=PowerState.STOPPED, is_down=True, force_stopped=True)


@contextmanager
def made_syncs(yard: Yard, **changed: Any) -> Iterator[HostSyncs]:
    settings = yard.settings.model_copy(update={"host_query_timeout": 0.5, **changed})
    drivers = Drivers(settings)
    yield HostSyncs(yard.engine, drivers, Sealer(settings.sealing_keys), settings)
    drivers.close()


@pytest.fixture
def syncs(yard: Yard) -> Iterator[HostSyncs]:
    with made_syncs(yard) as made:
        yield made


def replace_host(yard: Yard, host_id: UUID) -> None:
    with transaction(yard.engine) as session:
        session.get_one(VmHost, host_id).address = "http://127.0.0.1:9"


def test_the_list_of_a_host_that_was_replaced_meanwhile_is_dropped(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, syncs: HostSyncs
) -> None:
    """The old machine's VMs are not the new one's, and the new one's have not vanished."""
    with simulated_host() as host:
        host.add_vm()
        host_id = write_down(yard, host)
        ask = HostSyncs._ask

        def ask_slowly(self: HostSyncs, asked: HostToSync) -> list[ListedVm]:
            ask(self, asked)
            replace_host(yard, host_id)
            return []

        monkeypatch.setattr(HostSyncs, "_ask", ask_slowly)
        result = syncs.run(host_id, heed_breaker=False)
    assert (result.counts, result.problem) == (None, SUPERSEDED)
    with transaction(yard.engine) as session:
        assert set(session.scalars(select(Cvm.status))) == {"unknown"}, "as they were before"


def test_a_clock_that_was_ahead_keeps_no_list_out(yard: Yard, syncs: HostSyncs) -> None:
    with simulated_host() as host:
        host.add_vm()
        host_id = write_down(yard, host)
        with transaction(yard.engine) as session:
            session.execute(text("UPDATE vm_hosts SET synced_at = now() + interval '1 year'"))
        assert syncs.run(host_id, heed_breaker=False).counts is not None


def write_down(yard: Yard, host: SimulatedHost, *, cvms: bool = True, **columns: Any) -> UUID:
    """Add a host, and a CVM for each of its VMs; gives the host's id."""
    with transaction(yard.engine) as session:
        row = make_host(session, address=host.url, **columns)
        workspace = make_workspace(session)
        for vm_uuid in host.vm_ids if cvms else ():
            make_cvm(session, workspace, row, vm_uuid=vm_uuid, status="unknown")
        return row.id


def statuses(yard: Yard, host_id: UUID) -> dict[str | None, str]:
    with transaction(yard.engine) as session:
        found = session.execute(select(Cvm.vm_uuid, Cvm.status).where(Cvm.vm_host_id == host_id))
        return {row.vm_uuid: row.status for row in found}


def host_row(yard: Yard, host_id: UUID) -> VmHost:
    with transaction(yard.engine) as session:
        found = session.get_one(VmHost, host_id)
        session.expunge(found)
        return found


def alter(yard: Yard, statement: str, **values: Any) -> None:
    with transaction(yard.engine) as session:
        session.execute(text(statement), values)


def stop(yard: Yard, vm_uuid: str) -> UUID:
    """Let a stop of a CVM succeed, whatever its host does."""
    with transaction(yard.engine) as session:
        hash_id = session.scalars(select(Cvm.hash_id).where(Cvm.vm_uuid == vm_uuid)).one()
    request = BatchRequest(cvm_ids=(hash_id,), request_id="test")
    with driver_transaction(yard.engine) as connection:
        answer = accept_batch(connection, yard.caller, request, yard.settings)
    task = answer.to_send[0].stop_task_id
    with driver_transaction(yard.engine) as connection:
        claimed = claim_stop(connection, task, worker="w", settings=yard.settings)
        assert isinstance(claimed, ClaimedStop)
    with driver_transaction(yard.engine) as connection:
        settle_stop(connection, claimed.claim, DOWN, settings=yard.settings)
    return task


@contextmanager
def black_hole() -> Iterator[str]:
    """Give the address of something that takes connections and says nothing."""
    with silent_server() as silent:
        yield silent.url.replace("redis", "http").removesuffix("/0")


def test_a_hosts_list_is_written_down(yard: Yard, syncs: HostSyncs) -> None:
    with simulated_host(vms=3) as host:
        host_id = write_down(yard, host)
        one, two, three = host.vm_ids
        host.change_vm(two, status="exited")
        host.change_vm(three, status="stopped")
        httpx.post(f"{host.url}/prpc/RemoveVm?json", json={"id": three}).raise_for_status()
        host.wait_for_status(three, None)
        assert syncs.run_if_room(host_id) == (
            "vms 2, updated 3, adopted 0, vanished 1, unassigned 0, drifted 0"
        )
    assert statuses(yard, host_id) == {one: "running", two: "exited", three: "absent"}
    row = host_row(yard, host_id)
    assert row.synced_at is not None
    assert row.sync_error is None


def test_what_was_started_again_behind_our_back_is_drift(yard: Yard, syncs: HostSyncs) -> None:
    with simulated_host(vms=2) as host:
        host_id = write_down(yard, host)
        task = stop(yard, host.vm_ids[0])
        assert "drifted 1" in syncs.run_if_room(host_id)
        host.change_vm(host.vm_ids[0], status="stopped")
        assert "drifted 0" in syncs.run_if_room(host_id)
    with transaction(yard.engine) as session:
        drift = session.scalars(select(CvmDrift)).one()
        assert (drift.stop_task_id, drift.vm_host_id) == (task, host_id)
        assert drift.ended_at is not None


def test_a_thousand_vms(yard: Yard) -> None:
    with simulated_host(vms=1_000) as host, made_syncs(yard, host_query_timeout=10.0) as syncs:
        host_id = write_down(yard, host, cvms=False)
        alter(yard, "UPDATE vm_hosts SET adopts_into = :w", w=yard.caller.workspace_id)
        assert "adopted 1000" in syncs.run_if_room(host_id)
    assert set(statuses(yard, host_id)) == set(host.vm_ids)


class TestNotWell:
    """Only the error is written down."""

    def require_unchanged(self, yard: Yard, syncs: HostSyncs, host_id: UUID, error: str) -> None:
        before = statuses(yard, host_id)
        assert before
        assert error in syncs.run_if_room(host_id)
        assert statuses(yard, host_id) == before
        row = host_row(yard, host_id)
        assert error in (row.sync_error or "")
        assert row.synced_at is None

    def test_a_host_that_is_gone(self, yard: Yard, syncs: HostSyncs) -> None:
        with simulated_host() as host:
            host_id = write_down(yard, host)
        self.require_unchanged(yard, syncs, host_id, "refused")
        since = host_row(yard, host_id).unreachable_since
        assert since is not None
        self.require_unchanged(yard, syncs, host_id, "refused")
        assert host_row(yard, host_id).unreachable_since == since

    def test_one_that_refuses_has_answered(self, yard: Yard, syncs: HostSyncs) -> None:
        with simulated_host(token="wanted") as host:
            host.add_vm()
            host_id = write_down(yard, host)
            self.require_unchanged(yard, syncs, host_id, "401")
        assert host_row(yard, host_id).unreachable_since is None

    def test_one_that_says_nothing(self, yard: Yard, syncs: HostSyncs) -> None:
        with simulated_host() as host, black_hole() as address:
            host_id = write_down(yard, host)
            alter(yard, "UPDATE vm_hosts SET address = :address", address=address)
            self.require_unchanged(yard, syncs, host_id, "no whole answer")

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            ({"kind": "error", "text": "out of order"}, "out of order"),
            ({"kind": "cut"}, "broke"),
            ({"kind": "garbage"}, "not an answer"),
            ({"kind": "http", "status": 502}, "502"),
        ],
    )
    def test_one_without_a_whole_list(
        self, yard: Yard, syncs: HostSyncs, fault: dict[str, Any], error: str
    ) -> None:
        with simulated_host(faults=[{**fault, "methods": ["Status"]}]) as host:
            self.require_unchanged(yard, syncs, write_down(yard, host), error)

    def test_one_whose_list_is_too_long(
        self, yard: Yard, syncs: HostSyncs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What came of it is no list."""
        monkeypatch.setattr("workers.drivers.dstack.MAX_LIST", 100)
        with simulated_host() as host:
            self.require_unchanged(yard, syncs, write_down(yard, host), "longer than")

    def test_one_that_refuses_the_credentials(self, yard: Yard, syncs: HostSyncs) -> None:
        with simulated_host(token="another") as host:
            host_id = write_down(yard, host)
            self.require_unchanged(yard, syncs, host_id, "refused the credentials")

    def test_one_whose_credentials_cannot_be_opened(self, yard: Yard, syncs: HostSyncs) -> None:
        with simulated_host() as host:
            host_id = write_down(
                yard,
                host,
                credentials=HostCredentials(token=SecretStr("t")),
                sealing_keys=SecretStr(new_sealing_key()),
            )
            self.require_unchanged(yard, syncs, host_id, "put back the key")

    def test_a_fault_of_our_own(
        self, yard: Yard, syncs: HostSyncs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(inventory, "write_list", lambda *_, **__: 1 / 0)
        with simulated_host() as host, capture_logs() as logs:
            host_id = write_down(yard, host)
            self.require_unchanged(yard, syncs, host_id, "a fault in cvmstop")
        assert [line["event"] for line in logs] == ["sync broke", "host not synced"]

    def test_one_whose_breaker_is_open_is_not_asked(self, yard: Yard, syncs: HostSyncs) -> None:
        with simulated_host() as host:
            host_id = write_down(yard, host)
            alter(yard, "UPDATE vm_hosts SET breaker_open_until = now() + interval '1 day'")
            self.require_unchanged(yard, syncs, host_id, BREAKER_OPEN)
            assert host.log() == []
            alter(yard, "UPDATE vm_hosts SET breaker_open_until = now()")
            assert "vms 3" in syncs.run_if_room(host_id)

    def test_one_that_was_removed(self, syncs: HostSyncs) -> None:
        assert syncs.run_if_room(uuid4()) == GONE

    def test_the_database_is_away(self, yard: Yard) -> None:
        away = yard.settings.model_copy(
            update={"database_url": SecretStr("postgresql://127.0.0.1:1/none")}
        )
        engine = make_engine(away, application="tests")
        syncs = HostSyncs(engine, Drivers(away), Sealer(away.sealing_keys), away)
        for _ in range(2):  # its place is free again
            with pytest.raises(DatabaseUnavailableError):
                syncs.run_if_room(uuid4())
        engine.dispose()

    def test_an_older_failure_does_not_hide_a_newer_list(
        self, yard: Yard, syncs: HostSyncs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with simulated_host() as host, made_syncs(yard) as quicker:
            host_id = write_down(yard, host)
            host.change(faults=[{"kind": "error", "methods": ["Status"], "count": 1}])
            meanwhile(syncs, monkeypatch, lambda: quicker.run_if_room(host_id))
            assert "vms" not in syncs.run_if_room(host_id)
        assert host_row(yard, host_id).sync_error is None


def meanwhile(syncs: HostSyncs, monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Do something when a sync has asked its host, and has not written anything yet."""
    ask = syncs._ask

    def ask_and_do(host: Any) -> Any:
        try:
            return ask(host)
        finally:
            do()

    monkeypatch.setattr(syncs, "_ask", ask_and_do)


class TestAtOnce:
    def test_a_stop_that_ends_while_the_host_is_asked(
        self, yard: Yard, syncs: HostSyncs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The list still says that its VM runs."""
        with simulated_host(vms=2) as host:
            host_id = write_down(yard, host)
            meanwhile(syncs, monkeypatch, lambda: stop(yard, host.vm_ids[0]))
            assert "drifted 0" in syncs.run_if_room(host_id)
        assert statuses(yard, host_id) == {host.vm_ids[0]: "stopped", host.vm_ids[1]: "running"}

    def test_a_newer_list_that_is_quicker(
        self, yard: Yard, syncs: HostSyncs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with simulated_host(vms=1) as host, made_syncs(yard) as quicker:
            host_id = write_down(yard, host)

            def overtake() -> None:
                host.change_vm(host.vm_ids[0], status="stopped")
                assert "updated 1" in quicker.run_if_room(host_id)

            meanwhile(syncs, monkeypatch, overtake)
            assert syncs.run_if_room(host_id) == SUPERSEDED
        assert list(statuses(yard, host_id).values()) == ["stopped"]

    def test_two_of_one_host_take_turns(
        self, yard: Yard, syncs: HostSyncs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both have the list of unknown VMs; each VM becomes one CVM."""
        asked = threading.Barrier(2)

        def write_together(*args: Any, **named: Any) -> Any:
            asked.wait(30)
            return write_list(*args, **named)

        monkeypatch.setattr(inventory, "write_list", write_together)
        syncs.fit_into(100)
        results: list[str] = []
        with simulated_host(vms=50) as host:
            host_id = write_down(yard, host, cvms=False)
            alter(yard, "UPDATE vm_hosts SET adopts_into = :w", w=yard.caller.workspace_id)
            with in_threads(2, lambda: results.append(syncs.run_if_room(host_id))):
                pass
        assert len(results) == 2
        assert sum("adopted 50" in result for result in results) == 1
        assert set(statuses(yard, host_id)) == set(host.vm_ids)

    def test_black_holes_take_no_more_than_the_share_of_syncs(
        self, yard: Yard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with (
            made_syncs(yard, host_query_timeout=2.0) as syncs,
            black_hole() as address,
            simulated_host() as host,
        ):
            with transaction(yard.engine) as session:
                hole = make_host(session, address=address).id
            healthy = write_down(yard, host)
            syncs.fit_into(29)
            assert syncs.most == 2
            began = threading.Barrier(3)
            ask = syncs._ask

            def begin_and_ask(asked: Any) -> Any:
                if asked.id == hole:
                    began.wait(30)
                return ask(asked)

            monkeypatch.setattr(syncs, "_ask", begin_and_ask)
            with in_threads(2, lambda: syncs.run_if_room(hole)):
                began.wait(30)
                assert syncs.run_if_room(healthy) == NO_PLACE
                assert host.log() == []
            assert "vms 3" in syncs.run_if_room(healthy)
            assert host_row(yard, hole).sync_error
            syncs.fit_into(5)
            assert syncs.most == 1


@contextmanager
def in_threads(count: int, run: Callable[[], object]) -> Iterator[None]:
    """Run something several times at once, until all have ended."""
    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
