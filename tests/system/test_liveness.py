"""A worker that no longer consumes ends itself; one that waits for something does not."""

from __future__ import annotations

import os
from socket import gethostname
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import select, text

from shared.broker import DISPATCH_TASK, HOUSEKEEPING_QUEUE, STOPS_QUEUE, Broker, make_celery
from shared.database import driver_transaction, transaction
from shared.models.batches import BatchRequest
from shared.models.turns import DueStop
from shared.services.batch_stop import accept_batch
from shared.settings import BrokerSettings
from shared.tables import StopAttempt
from tests.shared.conftest import Yard, yard
from tests.support.forgetful_proxy import ForgetfulProxy
from tests.support.seeds import make_cvm, make_host, make_workspace
from tests.support.simulated_host import SimulatedHost, simulated_host
from tests.support.valkey_process import ValkeyProcess
from tests.support.waiting import eventually
from tests.support.worker_process import cancel_consumers, running_worker
from tests.system.running_stack import started_up
from workers.heartbeat import EXIT_STATUS


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from uuid import UUID

__all__ = ["yard"]

QUICK = {"CVMSTOP_HEARTBEAT_INTERVAL": "0.25", "CVMSTOP_HEARTBEAT_TIMEOUT": "3"}
"""Heartbeats for tests."""

TIMEOUT = float(QUICK["CVMSTOP_HEARTBEAT_TIMEOUT"])

PATIENT_TURNS = {"CVMSTOP_LOOK_SECONDS": "50"}
"""Turns that last until the host reports the VM down."""

EVENT_INTERVALS = 5.0
"""Seconds; Celery's event heartbeat comes every 2 (`Heart`)."""

GIVES_UP = "no messages come through"


@pytest.fixture
def host() -> Iterator[SimulatedHost]:
    """Give a host whose VMs do not end before they are let."""
    with simulated_host(vms=2, never_stops=True) as made:
        yield made


@pytest.fixture
def stops(yard: Yard, host: SimulatedHost) -> list[UUID]:
    """Accept a stop for each VM of the host; nothing is sent."""
    with transaction(yard.engine) as session:
        row = make_host(session, address=host.url)
        workspace = make_workspace(session)
        ids = [make_cvm(session, workspace, row, vm_uuid=vm).hash_id for vm in host.vm_ids]
    request = BatchRequest(cvm_ids=tuple(ids), request_id="test")
    with driver_transaction(yard.engine) as connection:
        answer = accept_batch(connection, yard.caller, request, yard.settings)
    return [stop.stop_task_id for stop in answer.to_send]


def send(broker_url: str, stops: Sequence[UUID]) -> None:
    app = make_celery(BrokerSettings(broker_url=SecretStr(broker_url)))
    Broker(app).send_stops(
        [DueStop(stop_task_id=stop, request_id="test", cvm_id="any", host="any") for stop in stops]
    )
    app.close()


def bindings(client: Redis, key: str) -> str:
    """Give what kombu has bound to an exchange, as one text."""
    return str(client.smembers(key) if client.type(key) == "set" else client.zrange(key, 0, -1))


def outcomes(yard: Yard) -> list[str]:
    with transaction(yard.engine) as session:
        return [str(outcome) for outcome in session.scalars(select(StopAttempt.outcome))]


def test_one_that_has_nothing_to_do_goes_on(yard: Yard, valkey: str, tmp_path: Path) -> None:
    file = tmp_path / "heartbeat"
    environment = {**QUICK, "CVMSTOP_HEARTBEAT_FILE": str(file)}
    options = ("-Q", STOPS_QUEUE)
    with running_worker(yard.settings, valkey, tmp_path / "log", *options, **environment) as worker:
        eventually(file.exists)
        began = file.stat().st_mtime
        worker.require_alive(seconds=2 * TIMEOUT)
        assert file.stat().st_mtime > began + TIMEOUT


def test_one_that_consumes_no_more_lets_its_turns_end_and_then_ends(
    yard: Yard, valkey: str, host: SimulatedHost, stops: list[UUID], tmp_path: Path
) -> None:
    options = ("-Q", STOPS_QUEUE, "-c", "4")
    log = tmp_path / "log"
    with running_worker(yard.settings, valkey, log, *options, **QUICK, **PATIENT_TURNS) as worker:
        send(valkey, stops[:1])
        eventually(lambda: outcomes(yard) == ["running"])
        worker.stop_consuming()
        worker.wait_for_log(GIVES_UP)
        worker.require_alive()
        assert outcomes(yard) == ["running"]
        host.change(never_stops=False)
        assert worker.process.wait(30) == EXIT_STATUS
        assert outcomes(yard) == ["succeeded"]
        assert worker.log.count(GIVES_UP) == 1


def test_one_that_consumes_again_meanwhile_goes_on(
    yard: Yard, valkey: str, host: SimulatedHost, stops: list[UUID], tmp_path: Path
) -> None:
    options = ("-Q", STOPS_QUEUE, "-c", "4")
    log = tmp_path / "log"
    with running_worker(yard.settings, valkey, log, *options, **QUICK, **PATIENT_TURNS) as worker:
        send(valkey, stops[:1])
        eventually(lambda: outcomes(yard) == ["running"])
        worker.stop_consuming()
        worker.wait_for_log(GIVES_UP)
        worker.app.control.add_consumer(STOPS_QUEUE, destination=[worker.node], reply=True)
        send(valkey, stops[1:])
        eventually(lambda: outcomes(yard) == ["running", "running"])
        host.change_vm(host.vm_ids[0], never_stops=False)
        worker.wait_for_log("messages come through again")
        worker.require_alive()


def test_one_whose_slots_are_all_taken_goes_on(
    yard: Yard, valkey: str, host: SimulatedHost, stops: list[UUID], tmp_path: Path
) -> None:
    file = tmp_path / "heartbeat"
    environment = {**QUICK, **PATIENT_TURNS, "CVMSTOP_HEARTBEAT_FILE": str(file)}
    options = ("-Q", STOPS_QUEUE, "-c", "2")
    with (
        running_worker(yard.settings, valkey, tmp_path / "log", *options, **environment) as worker,
        Redis.from_url(valkey, decode_responses=True) as client,
    ):
        send(valkey, stops)
        eventually(lambda: outcomes(yard) == ["running"] * 2)
        eventually(file.exists)
        began = file.stat().st_mtime
        worker.require_alive(seconds=2 * TIMEOUT)
        assert file.stat().st_mtime > began + TIMEOUT  # it counts as healthy all the while
        assert sum(client.llen(key) for key in client.scan_iter("heartbeat.*")) <= 1
        host.change(never_stops=False)
        eventually(lambda: outcomes(yard) == ["succeeded"] * 2)
        worker.require_alive()
        assert GIVES_UP not in worker.log


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_one_whose_broker_is_away_waits_for_it(
    yard: Yard, host: SimulatedHost, stops: list[UUID], tmp_path: Path, how: str
) -> None:
    host.change(never_stops=False)
    with (
        ValkeyProcess(tmp_path) as valkey,
        running_worker(
            yard.settings, valkey.url, tmp_path / "log", "-Q", STOPS_QUEUE, **QUICK
        ) as worker,
    ):
        valkey.kill() if how == "killed" else valkey.freeze()
        worker.require_alive(seconds=2 * TIMEOUT)
        # However long it was away, it is missed for a second only. (A frozen one is not logged.)
        assert worker.log.count("Trying again") == worker.log.count("Trying again in 1.00 second")
        assert how == "frozen" or "Trying again" in worker.log
        valkey.start() if how == "killed" else valkey.thaw()
        send(valkey.url, stops)
        eventually(lambda: outcomes(yard) == ["succeeded"] * 2)
        worker.require_alive()
        assert GIVES_UP not in worker.log


def test_one_that_is_told_to_end_does_so_while_its_broker_is_frozen(
    yard: Yard, tmp_path: Path
) -> None:
    with (
        ValkeyProcess(tmp_path) as valkey,
        running_worker(
            yard.settings, valkey.url, tmp_path / "log", "-Q", STOPS_QUEUE, **QUICK
        ) as worker,
    ):
        valkey.freeze()
        worker.require_alive(seconds=EVENT_INTERVALS)  # until its main loop hangs in an event
        worker.process.terminate()
        assert worker.process.wait(60) == os.EX_OK
        assert worker.log.count("told to end") == 1
        valkey.thaw()


def test_a_connection_that_went_silent_is_replaced(
    yard: Yard, valkey: str, host: SimulatedHost, stops: list[UUID], tmp_path: Path
) -> None:
    """As when a firewall forgets it: the time-out here is kombu's, not a heartbeat's."""
    host.change(never_stops=False)
    with ForgetfulProxy(int(urlsplit(valkey).port or 0)) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        with running_worker(yard.settings, url, tmp_path / "log", "-Q", STOPS_QUEUE) as worker:
            proxy.forget()
            # Before, the broker would hand a message to the connection that is dead.
            worker.wait_for_log("dropping stale connection")
            send(valkey, stops)
            eventually(lambda: outcomes(yard) == ["succeeded"] * 2)
            worker.require_alive()


def test_nothing_stays_in_the_broker_of_one_that_is_gone(
    yard: Yard, valkey: str, tmp_path: Path
) -> None:
    with Redis.from_url(valkey, decode_responses=True) as client:
        options = ("-Q", STOPS_QUEUE)
        with running_worker(yard.settings, valkey, tmp_path / "log", *options, **QUICK) as worker:
            worker.stop_consuming()
            (own,) = eventually(lambda: list(client.scan_iter("heartbeat.*")))
            eventually(lambda: client.llen(own) > 2)
            assert not [key for key in client.scan_iter("_kombu*") if own in bindings(client, key)]
        eventually(lambda: not list(client.scan_iter("heartbeat.*")))


def test_rounds_are_run_without_ticks(yard: Yard, valkey: str, tmp_path: Path) -> None:
    yard.accept(3)
    with transaction(yard.engine) as session:
        session.execute(text("UPDATE stop_tasks SET sent_at = NULL"))
    options = ("-Q", HOUSEKEEPING_QUEUE, "-c", "2")
    environment = {"CVMSTOP_DISPATCH_INTERVAL": "0.1"}
    with (
        running_worker(yard.settings, valkey, tmp_path / "log", *options, **environment) as worker,
        Redis.from_url(valkey) as client,
    ):
        eventually(lambda: client.llen(STOPS_QUEUE) == 3)
        assert worker.log.count("no tick comes from beat") == 1
        worker.app.send_task(DISPATCH_TASK, queue=HOUSEKEEPING_QUEUE)
        worker.wait_for_log("ticks come again")


def test_in_a_stack_it_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    options = ("--simulate", "30")
    with started_up(tmp_path / "stack", *options, output=tmp_path / "up.log") as (stack, _):
        app = make_celery(BrokerSettings(broker_url=SecretStr(stack.facts["broker_url"])))
        names = ("worker", "dispatcher")
        old = [stack.pid(name) for name in names]
        for name in names:
            cancel_consumers(app, f"{name}@{gethostname()}")
        eventually(lambda: all(stack.pid(name) not in old for name in names))
        app.close()
        assert (tmp_path / "up.log").read_text().count(f"died (status {EXIT_STATUS})") == 2
        batch_id, _ = stack.batch_stop(stack.cvm_ids("acme"))
        assert {task["state"] for task in stack.wait_until_ended(batch_id)} == {"succeeded"}
