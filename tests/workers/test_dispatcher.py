"""The dispatcher finds again what was lost."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import select, text

from shared.broker import STOPS_QUEUE, Broker, make_celery
from shared.database import driver_transaction, transaction
from shared.exceptions import BrokerUnavailableError
from shared.models.turns import DueStop
from shared.services.stops import ClaimedStop, claim_stop
from shared.storage.dispatch import take_due
from shared.tables import Cvm, StopAttempt, StopTask
from workers.dispatcher import ENOUGH_WAITING, Round, run_round


if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.shared.conftest import Yard


class RecordingBroker(Broker):
    """Remembers what it was given, or refuses it."""

    def __init__(self) -> None:
        self.sent: list[UUID] = []
        self.is_away = False
        self.waiting = 0
        self._lock = threading.Lock()

    def count_waiting(self) -> int:
        return self.waiting

    def send_stops(self, stops: Sequence[DueStop]) -> None:
        if self.is_away and stops:
            msg = "away"
            raise BrokerUnavailableError(msg)
        with self._lock:
            self.sent += [stop.stop_task_id for stop in stops]


@pytest.fixture
def broker() -> RecordingBroker:
    return RecordingBroker()


def run(yard: Yard, broker: Broker) -> Round:
    return run_round(yard.engine, broker, yard.settings)


def alter(yard: Yard, change: str) -> None:
    with transaction(yard.engine) as session:
        session.execute(text(f"UPDATE stop_tasks SET {change}"))  # noqa: S608 - the test's own text


def claim(yard: Yard, task: UUID) -> None:
    with driver_transaction(yard.engine) as connection:
        claimed = claim_stop(connection, task, worker="w1", settings=yard.settings)
        assert isinstance(claimed, ClaimedStop)


def states(yard: Yard) -> list[tuple[str, str | None]]:
    with transaction(yard.engine) as session:
        return [(task.state, task.error_code) for task in session.scalars(select(StopTask))]


class TestSending:
    def test_what_was_just_sent_is_left_alone(self, yard: Yard, broker: RecordingBroker) -> None:
        yard.accept(3)
        assert run(yard, broker) == Round(released=0, failed=0, sent=0)

    def test_what_was_sent_and_not_claimed_is_sent_again(
        self, yard: Yard, broker: RecordingBroker
    ) -> None:
        tasks = yard.accept(3)
        alter(yard, "sent_at = sent_at - interval '1 minute'")
        assert run(yard, broker).sent == 3
        assert set(broker.sent) == set(tasks)
        assert run(yard, broker).sent == 0

    def test_what_is_not_due_waits(self, yard: Yard, broker: RecordingBroker) -> None:
        yard.accept(2)
        alter(yard, "sent_at = NULL, due_at = now() + interval '1 minute'")
        assert run(yard, broker).sent == 0

    def test_no_more_than_a_host_has_room_for(self, yard: Yard, broker: RecordingBroker) -> None:
        busy = yard.accept(10, cap=4)
        yard.accept(3, cap=4)
        claim(yard, busy[0])
        alter(yard, "sent_at = NULL")
        assert run(yard, broker).sent == 3 + 3

    def test_a_host_with_an_open_breaker_gets_nothing(
        self, yard: Yard, broker: RecordingBroker
    ) -> None:
        yard.accept(3, host="dead")
        alive = yard.accept(3)
        alter(yard, "sent_at = NULL")
        with transaction(yard.engine) as session:
            session.execute(
                text(
                    "UPDATE vm_hosts SET unreachable_count = 9,"
                    " breaker_open_until = now() + interval '1 minute' WHERE name = 'dead'"
                )
            )
        assert run(yard, broker).sent == 3
        assert set(broker.sent) == set(alive)

    def test_a_host_on_trial_gets_one(self, yard: Yard, broker: RecordingBroker) -> None:
        yard.accept(3)
        alter(yard, "sent_at = NULL")
        with transaction(yard.engine) as session:
            session.execute(
                text("UPDATE vm_hosts SET unreachable_count = 9, breaker_open_until = now()")
            )
        assert run(yard, broker).sent == 1

    def test_the_broker_is_away(self, yard: Yard, broker: RecordingBroker) -> None:
        tasks = yard.accept(3)
        alter(yard, "sent_at = NULL")
        broker.is_away = True
        assert run(yard, broker).sent == 0
        broker.is_away = False
        assert run(yard, broker).sent == 3
        assert set(broker.sent) == set(tasks)

    def test_four_dispatchers_at_once_send_each_stop_once(
        self, yard: Yard, broker: RecordingBroker
    ) -> None:
        tasks = [task for _ in range(5) for task in yard.accept(8)]
        alter(yard, "sent_at = NULL")
        threads = [threading.Thread(target=run, args=(yard, broker)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        run(yard, broker)
        assert sorted(broker.sent) == sorted(tasks)

    def test_what_another_dispatcher_is_taking_is_passed_over(self, yard: Yard) -> None:
        yard.accept(3)
        alter(yard, "sent_at = NULL")
        again = timedelta(seconds=5)
        with transaction(yard.engine) as first, transaction(yard.engine) as second:
            assert len(take_due(first, resend_after=again, breaker_threshold=3, limit=9)) == 3
            assert take_due(second, resend_after=again, breaker_threshold=3, limit=9) == []

    def test_a_broker_with_enough_to_do_gets_no_more(
        self, yard: Yard, broker: RecordingBroker
    ) -> None:
        """Nobody consumes, and every resend would only make the queue longer."""
        yard.accept(3)
        alter(yard, "sent_at = NULL")
        broker.waiting = ENOUGH_WAITING
        assert run(yard, broker).sent == 0
        broker.waiting = ENOUGH_WAITING - 2
        assert run(yard, broker).sent == 2
        broker.waiting = 0
        assert run(yard, broker).sent == 1

    def test_through_a_real_broker(self, yard: Yard, valkey: str) -> None:
        yard.accept(3)
        alter(yard, "sent_at = NULL")
        settings = yard.settings.model_copy(update={"broker_url": SecretStr(valkey)})
        assert run(yard, Broker(make_celery(settings))).sent == 3
        with Redis.from_url(valkey) as client:
            assert client.llen(STOPS_QUEUE) == 3


class TestLeases:
    def test_a_lease_that_ran_out_is_given_back_and_sent(
        self, yard: Yard, broker: RecordingBroker
    ) -> None:
        (task,) = yard.accept()
        claim(yard, task)
        alter(yard, "lease_expires_at = now() - interval '1 second'")
        assert run(yard, broker) == Round(released=1, failed=0, sent=1)
        assert states(yard) == [("scheduled", "lease_expired")]
        with transaction(yard.engine) as session:
            attempt = session.scalars(select(StopAttempt)).one()
            assert (attempt.outcome, attempt.error_code) == ("lease_expired", "lease_expired")
            assert attempt.finished_at is not None
            assert session.scalars(select(Cvm.in_progress)).one()
        claim(yard, task)

    def test_a_lease_that_has_not_is_left_alone(self, yard: Yard, broker: RecordingBroker) -> None:
        (task,) = yard.accept()
        claim(yard, task)
        assert run(yard, broker) == Round(released=0, failed=0, sent=0)


class TestDeadlines:
    def test_what_nobody_could_look_at_fails_with_the_reason(
        self, yard: Yard, broker: RecordingBroker
    ) -> None:
        yard.accept()
        alter(yard, "deadline_at = now() - interval '1 minute'")
        with transaction(yard.engine) as session:
            session.execute(
                text("UPDATE vm_hosts SET unreachable_count = 3, last_error = 'of another CVM'")
            )
        assert run(yard, broker).failed == 1
        assert states(yard) == [("failed", "deadline_exceeded")]
        with transaction(yard.engine) as session:
            message = session.scalars(select(StopTask.error_message)).one()
            assert message is not None
            assert message == "never tried before the deadline: the host does not answer"
            assert not session.scalars(select(Cvm.in_progress)).one()

    def test_cvms_that_a_request_has_locked_are_left_for_the_next_round(
        self, yard: Yard, broker: RecordingBroker
    ) -> None:
        """Waiting for them is half of a deadlock."""
        yard.accept(3)
        alter(yard, "deadline_at = now() - interval '1 minute'")
        with transaction(yard.engine) as session:
            session.execute(text("SELECT 1 FROM cvms ORDER BY id LIMIT 1 FOR UPDATE"))
            assert run(yard, broker).failed == 2
        assert run(yard, broker).failed == 1

    def test_the_last_try_is_told(self, yard: Yard, broker: RecordingBroker) -> None:
        (task,) = yard.accept()
        claim(yard, task)
        alter(yard, "lease_expires_at = now() - interval '1 second'")
        alter(yard, "deadline_at = now() - interval '1 minute'")
        assert run(yard, broker) == Round(released=1, failed=1, sent=0)
        with transaction(yard.engine) as session:
            message = session.scalars(select(StopTask.error_message)).one()
        assert message is not None
        assert "the last try: the worker did not finish its turn" in message

    def test_there_is_time_for_one_last_look(self, yard: Yard, broker: RecordingBroker) -> None:
        yard.accept()
        alter(yard, "deadline_at = now() - interval '1 second', sent_at = NULL")
        assert run(yard, broker) == Round(released=0, failed=0, sent=1)

    def test_a_turn_under_way_is_left_to_end(self, yard: Yard, broker: RecordingBroker) -> None:
        (task,) = yard.accept()
        claim(yard, task)
        alter(yard, "deadline_at = now() - interval '1 minute'")
        assert run(yard, broker).failed == 0
