"""From a message to a settled row: claim, turn, settle, on a real (simulated) host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select, text

from shared.database import driver_transaction, transaction
from shared.exceptions import DatabaseUnavailableError
from shared.models.batches import BatchRequest
from shared.models.hosts import HostCredentials
from shared.models.states import StopState
from shared.sealing import Sealer, new_sealing_key
from shared.services.batch_stop import accept_batch
from shared.services.stops import settle_stop
from shared.tables import StopAttempt, StopTask
from tests.support.seeds import make_cvm, make_host, make_workspace
from tests.support.simulated_host import simulated_host
from tests.workers.test_dispatcher import RecordingBroker
from workers.drivers.registry import Drivers
from workers.inventory import HostSyncs
from workers.metrics import WorkerMetrics
from workers.parts import WorkerParts
from workers.stops import STALE, work_on_stop
from workers.webhooks.lanes import make_lanes


if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from tests.shared.conftest import Yard
    from tests.support.simulated_host import SimulatedHost

TOKEN = "a-token-that-must-not-be-seen"


@pytest.fixture
def parts(yard: Yard) -> Iterator[WorkerParts]:
    settings = yard.settings.model_copy(update={"look_seconds": 0.3, "look_interval": 0.02})
    sealer, drivers = Sealer(settings.sealing_keys), Drivers(settings)
    metrics = WorkerMetrics()
    made = WorkerParts(
        settings=settings,
        engine=yard.engine,
        broker=RecordingBroker(),
        sealer=sealer,
        drivers=drivers,
        syncs=HostSyncs(yard.engine, drivers, sealer, settings),
        webhooks=make_lanes(yard.engine, settings, metrics),
        metrics=metrics,
    )
    yield made
    made.drivers.close()


def accept(yard: Yard, host: SimulatedHost, *, token: str | None = None) -> list[UUID]:
    """Accept the stops of every VM of a host."""
    credentials = HostCredentials(token=SecretStr(token)) if token else None
    with transaction(yard.engine) as session:
        row = make_host(
            session,
            address=host.url,
            cap=1,
            credentials=credentials,
            sealing_keys=yard.settings.sealing_keys,
        )
        workspace = make_workspace(session)
        ids = [make_cvm(session, workspace, row, vm_uuid=vm).hash_id for vm in host.vm_ids]
    request = BatchRequest(cvm_ids=tuple(ids), request_id="test")
    with driver_transaction(yard.engine) as connection:
        answer = accept_batch(connection, yard.caller, request, yard.settings)
    return [stop.stop_task_id for stop in answer.to_send]


def final(yard: Yard, task: UUID) -> StopTask:
    with transaction(yard.engine) as session:
        found = session.get_one(StopTask, task)
        session.expunge_all()
        return found


def test_a_stop(yard: Yard, parts: WorkerParts) -> None:
    with simulated_host(vms=2) as host:
        first, second = accept(yard, host)
        with transaction(yard.engine) as session:  # its message came too early, and was refused
            session.execute(
                text("UPDATE stop_tasks SET sent_at = NULL WHERE id = :second"), {"second": second}
            )
        assert work_on_stop(parts, first, worker="w@1") == StopState.SUCCEEDED
        assert [host.status(vm) for vm in host.vm_ids].count("stopped") == 1
    assert isinstance(parts.broker, RecordingBroker)
    assert parts.broker.sent == [second], "the next one of the host is woken"


def test_a_repeated_message_does_nothing(yard: Yard, parts: WorkerParts) -> None:
    with simulated_host(vms=1) as host:
        (task,) = accept(yard, host)
        for _ in range(5):
            work_on_stop(parts, task, worker="w@1")
        assert len(host.log(method="StopVm")) == 1
    with transaction(yard.engine) as session:
        assert len(session.scalars(select(StopAttempt)).all()) == 1


def test_credentials_are_used_and_never_written_down(
    yard: Yard, parts: WorkerParts, capfd: pytest.CaptureFixture[str]
) -> None:
    with simulated_host(vms=1, token=TOKEN) as host:
        (task,) = accept(yard, host, token=TOKEN)
        assert work_on_stop(parts, task, worker="w@1") == StopState.SUCCEEDED
    with transaction(yard.engine) as session:
        rows = [
            str(row)
            for table in ("stop_tasks", "stop_attempts", "vm_hosts")
            for row in session.execute(text(f"SELECT {table}::text FROM {table}"))  # noqa: S608 - our own tables
        ]
    assert TOKEN not in "".join([*rows, repr(parts), *capfd.readouterr()])


def test_refused_credentials(yard: Yard, parts: WorkerParts) -> None:
    with simulated_host(vms=1, token="another") as host:
        (task,) = accept(yard, host, token=TOKEN)
        assert work_on_stop(parts, task, worker="w@1") == StopState.FAILED
    row = final(yard, task)
    assert row.error_code == "credentials_refused"
    assert row.error_message is not None
    assert TOKEN not in row.error_message


def test_credentials_that_cannot_be_opened(yard: Yard, parts: WorkerParts) -> None:
    with simulated_host(vms=1) as host:
        (task,) = accept(yard, host, token=TOKEN)
        with transaction(yard.engine) as session:
            other = Sealer(SecretStr(new_sealing_key())).seal(b"{}")
            session.execute(text("UPDATE vm_hosts SET sealed_credentials = :it"), {"it": other})
        assert work_on_stop(parts, task, worker="w@1") == StopState.FAILED
    row = final(yard, task)
    assert row.error_code == "bad_host_configuration"
    assert row.error_message is not None
    assert "CVMSTOP_SEALING_KEYS" in row.error_message


def test_a_fault_of_our_own_is_written_down_and_tried_again(
    yard: Yard, parts: WorkerParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        msg = "a bug"
        raise ZeroDivisionError(msg)

    with simulated_host(vms=1) as host:
        (task,) = accept(yard, host)
        monkeypatch.setattr(parts.drivers, "get", broken)
        assert work_on_stop(parts, task, worker="w@1") == StopState.SCHEDULED
    row = final(yard, task)
    assert (row.error_code, row.failures) == ("internal", 1)


def test_a_turn_that_outlives_its_lease_changes_nothing(
    yard: Yard, parts: WorkerParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I4, as when a worker is stopped in the middle of its turn and let go again."""
    with simulated_host(vms=1) as host:
        (task,) = accept(yard, host)
        get = parts.drivers.get

        def slow(connection: object) -> object:
            with transaction(yard.engine) as session:
                session.execute(
                    text("UPDATE stop_tasks SET lease_expires_at = now() - interval '1 second'")
                )
            return get(connection)  # type: ignore[arg-type] # passed on as it came

        monkeypatch.setattr(parts.drivers, "get", slow)
        assert work_on_stop(parts, task, worker="w@1") == STALE
    row = final(yard, task)
    assert (row.state, row.finished_at) == (StopState.STOPPING, None)


def test_a_database_that_is_away_when_the_turn_ends(
    yard: Yard, parts: WorkerParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the host said is not forgotten; the host is not asked again."""
    failures = 2

    def settle(*args: Any, **kwargs: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            msg = "away"
            raise DatabaseUnavailableError(msg)
        return settle_stop(*args, **kwargs)

    monkeypatch.setattr("workers.stops.settle_stop", settle)
    with simulated_host(vms=1) as host:
        (task,) = accept(yard, host)
        assert work_on_stop(parts, task, worker="w@1") == StopState.SUCCEEDED
        assert len(host.log(method="StopVm")) == 1
    assert final(yard, task).attempt == 1
