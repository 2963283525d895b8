"""When hosts are synced: the schedule, the round that sends, the tasks, and real processes."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from kombu import Connection
from pydantic import SecretStr
from sqlalchemy import select, text

import workers.sync_tasks
from shared.broker import (
    HOUSEKEEPING_QUEUE,
    STOPS_QUEUE,
    SYNC_DUE_TASK,
    SYNC_HOST_TASK,
    Broker,
    make_celery,
)
from shared.database import transaction
from shared.exceptions import DatabaseUnavailableError
from shared.storage.sync_schedule import take_due
from shared.tables import VmHost
from tests.support.seeds import make_host
from tests.support.simulated_host import simulated_host
from tests.support.waiting import eventually
from tests.support.worker_process import running_worker
from workers import sync_round
from workers.app import make_schedule
from workers.sync_round import send_due
from workers.sync_tasks import DATABASE_AWAY, ROUND_UNDER_WAY


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shared.settings import Settings
    from tests.shared.conftest import Yard


def add_hosts(yard: Yard, count: int = 1, *, address: str = "http://127.0.0.1:1") -> list[UUID]:
    with transaction(yard.engine) as session:
        return [make_host(session, address=address).id for _ in range(count)]


def alter(yard: Yard, statement: str, **values: Any) -> None:
    with transaction(yard.engine) as session:
        session.execute(text(statement), values)


def wait_of(yard: Yard, host_id: UUID) -> float:
    """Say in how many seconds a host is due."""
    with transaction(yard.engine) as session:
        seconds = select(text("extract(epoch FROM next_sync_at - now())")).select_from(VmHost)
        return float(session.execute(seconds.where(VmHost.id == host_id)).scalar_one())


class TestSchedule:
    def due(self, yard: Yard, *, limit: int = 100) -> set[UUID]:
        with transaction(yard.engine) as session:
            return set(take_due(session, every=60.0, limit=limit))

    def test_a_new_host_is_due_at_once_and_then_in_an_interval(self, yard: Yard) -> None:
        (host,) = add_hosts(yard)
        assert self.due(yard) == {host}
        assert 40 < wait_of(yard, host) <= 72
        assert self.due(yard) == set()

    def test_a_clock_that_was_ahead_puts_nobody_off_for_long(self, yard: Yard) -> None:
        (host,) = add_hosts(yard)
        alter(yard, "UPDATE vm_hosts SET next_sync_at = now() + interval '1 year'")
        assert self.due(yard) == {host}

    def test_waits_differ(self, yard: Yard) -> None:
        hosts = add_hosts(yard, 20)
        self.due(yard)
        waits = [wait_of(yard, host) for host in hosts]
        assert max(waits) - min(waits) > 5
        assert min(waits) > 40

    def test_who_waits_longest_comes_first(self, yard: Yard) -> None:
        one, two, three = add_hosts(yard, 3)
        alter(
            yard,
            "UPDATE vm_hosts SET next_sync_at = now() - interval '1 hour' WHERE id = :host",
            host=two,
        )
        assert self.due(yard, limit=1) == {two}
        assert self.due(yard) == {one, three}

    @pytest.mark.parametrize(
        ("silent_for", "least", "most"), [(1, 40, 73), (300, 230, 370), (86_400, 470, 730)]
    )
    def test_the_longer_it_does_not_answer_the_longer_it_waits(
        self, yard: Yard, silent_for: int, least: float, most: float
    ) -> None:
        (host,) = add_hosts(yard)
        alter(
            yard,
            "UPDATE vm_hosts SET sync_error = 'away',"
            " synced_at = now() - make_interval(secs => :silent_for)",
            silent_for=silent_for,
        )
        self.due(yard)
        assert least < wait_of(yard, host) < most

    def test_a_host_that_somebody_has_locked_comes_with_the_next_round(self, yard: Yard) -> None:
        (host,) = add_hosts(yard)
        with transaction(yard.engine) as session:
            session.execute(text("SELECT FROM vm_hosts FOR NO KEY UPDATE"))
            assert self.due(yard) == set()
        assert self.due(yard) == {host}


@contextmanager
def broker_at(settings: Settings, url: str) -> Iterator[Broker]:
    broker = Broker(make_celery(settings.model_copy(update={"broker_url": SecretStr(url)})))
    yield broker
    broker.close()


@pytest.fixture
def broker(yard: Yard, valkey: str) -> Iterator[Broker]:
    with broker_at(yard.settings, valkey) as made:
        yield made


def waiting(valkey: str) -> list[dict[str, Any]]:
    """Take every message out of the queue of stops."""
    found = []
    with Connection(valkey) as connection, connection.SimpleQueue(STOPS_QUEUE) as queue:
        for _ in range(queue.qsize()):
            message = queue.get(timeout=5)
            found.append({**message.headers, "args": message.payload[0]})
            message.ack()
    return found


class TestRound:
    def test_sends_each_host_once_with_an_end(
        self, yard: Yard, broker: Broker, valkey: str
    ) -> None:
        hosts = add_hosts(yard, 3)
        assert send_due(yard.engine, broker, yard.settings) == 3
        assert send_due(yard.engine, broker, yard.settings) == 0
        messages = waiting(valkey)
        assert {message["task"] for message in messages} == {SYNC_HOST_TASK}
        assert {UUID(message["args"][0]) for message in messages} == set(hosts)
        assert all(message["expires"] for message in messages)

    def test_sends_nothing_where_workers_are_behind(
        self, yard: Yard, broker: Broker, valkey: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Or without workers it would fill the broker, and stops would find no room."""
        monkeypatch.setattr(sync_round, "ENOUGH_WAITING", 2)
        hosts = add_hosts(yard, 5)
        assert send_due(yard.engine, broker, yard.settings) == 2
        assert send_due(yard.engine, broker, yard.settings) == 0
        assert len(waiting(valkey)) == 2
        assert send_due(yard.engine, broker, yard.settings) == 2
        monkeypatch.setattr(sync_round, "ENOUGH_WAITING", 1)
        assert send_due(yard.engine, broker, yard.settings) == 0
        sent = {UUID(message["args"][0]) for message in waiting(valkey)}
        assert len(sent) == 2
        assert sent < set(hosts)

    def test_does_nothing_when_turned_off(self, yard: Yard, broker: Broker) -> None:
        add_hosts(yard)
        settings = yard.settings.model_copy(update={"sync_interval": 0.0})
        assert send_due(yard.engine, broker, settings) == 0
        assert broker.count_waiting() == 0
        assert "sync_due" not in make_schedule(settings)

    def test_with_the_broker_away_what_is_due_stays_due(self, yard: Yard) -> None:
        (host,) = add_hosts(yard)
        with broker_at(yard.settings, "redis://127.0.0.1:1/0") as away:
            assert send_due(yard.engine, away, yard.settings) == 0
        assert wait_of(yard, host) <= 0

    def test_messages_that_the_broker_does_not_take_cost_an_interval(
        self, yard: Yard, broker: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (host,) = add_hosts(yard)
        with broker_at(yard.settings, "redis://127.0.0.1:1/0") as away:
            monkeypatch.setattr(away, "count_waiting", broker.count_waiting)
            assert send_due(yard.engine, away, yard.settings) == 0
        assert 40 < wait_of(yard, host) <= 72


class TestTasks:
    def test_a_sync_says_what_it_did(self, idle_tasks: Any) -> None:
        host = str(uuid4())
        assert idle_tasks[SYNC_HOST_TASK](host) == host

    def test_the_database_is_away(
        self, idle_tasks: Any, idle_parts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> int:
            msg = "away"
            raise DatabaseUnavailableError(msg)

        monkeypatch.setattr(workers.sync_tasks, "send_due", fail)
        monkeypatch.setattr(idle_parts.syncs, "run_if_room", fail)
        for _ in range(2):
            assert idle_tasks[SYNC_DUE_TASK]() == DATABASE_AWAY
            assert idle_tasks[SYNC_HOST_TASK](str(uuid4())) == DATABASE_AWAY

    def test_a_second_round_in_a_process_leaves_its_slot_at_once(
        self, idle_tasks: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Or messages that piled up would hold every slot, and the dispatcher with them."""
        began, go_on = threading.Event(), threading.Event()

        def take_long(*_: object) -> int:
            began.set()
            assert go_on.wait(30)
            return 1

        monkeypatch.setattr(workers.sync_tasks, "send_due", take_long)
        first = threading.Thread(target=idle_tasks[SYNC_DUE_TASK])
        first.start()
        assert began.wait(30)
        assert idle_tasks[SYNC_DUE_TASK]() == ROUND_UNDER_WAY
        go_on.set()
        first.join()
        assert idle_tasks[SYNC_DUE_TASK]() == "sent 1"


class TestRealProcesses:
    """A round in one worker has another one sync the hosts."""

    def synced(self, yard: Yard) -> dict[UUID, tuple[bool, bool]]:
        """Say of each host whether it was read, and whether it could not be."""
        with transaction(yard.engine) as session:
            return {
                host.id: (host.synced_at is not None, host.sync_error is not None)
                for host in session.scalars(select(VmHost))
            }

    def test_dead_hosts_and_live_ones(self, yard: Yard, valkey: str, tmp_path: Path) -> None:
        queues = ("-Q", f"{HOUSEKEEPING_QUEUE},{STOPS_QUEUE}", "-c", "40")
        with (
            simulated_host(vms=3) as host,
            running_worker(yard.settings, valkey, tmp_path / "log", *queues) as worker,
        ):
            (live,) = add_hosts(yard, address=host.url)
            dead = add_hosts(yard, 2)
            worker.app.send_task(SYNC_DUE_TASK, queue=HOUSEKEEPING_QUEUE)
            wanted = {live: (True, False), **dict.fromkeys(dead, (False, True))}
            eventually(lambda: self.synced(yard) == wanted)
            worker.wait_for_log("host not synced", count=2)
            assert "Traceback" not in worker.log
        with transaction(yard.engine) as session:
            assert session.execute(text("SELECT count(*) FROM unassigned_vms")).scalar_one() == 3

    def test_a_message_that_waited_too_long_does_nothing(
        self, yard: Yard, valkey: str, tmp_path: Path
    ) -> None:
        with simulated_host(vms=3) as host:
            first, second = add_hosts(yard, 2, address=host.url)
            with broker_at(yard.settings, valkey) as broker:
                broker.send_syncs([first], expires=-1)
                broker.send_syncs([second], expires=60)
            options = ("-Q", STOPS_QUEUE, "-c", "20")
            with running_worker(yard.settings, valkey, tmp_path / "log", *options) as worker:
                eventually(lambda: self.synced(yard)[second] == (True, False))
                assert "Traceback" not in worker.log
            assert self.synced(yard)[first] == (False, False)
