"""A host's breaker: what opens it, and what closes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select, text

from shared.database import transaction
from shared.models.errors import ErrorCode, Fate
from shared.models.states import StopState
from shared.models.turns import Refusal
from shared.tables import VmHost
from tests.shared.services.steps import DOWN, claim, failure, got, refuse, row, settle


if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from tests.shared.conftest import Yard


class TestBreaker:
    def open_it(self, yard: Yard, tasks: list[UUID]) -> None:
        claims = [got(yard, task) for task in tasks]
        for each in claims:
            settle(yard, each, failure(Fate.UNREACHABLE, ErrorCode.HOST_UNREACHABLE))

    def test_it_opens_and_tries_one_and_closes(self, yard: Yard) -> None:
        threshold = yard.settings.breaker_threshold
        tasks = yard.accept(threshold + 3)
        self.open_it(yard, tasks[:threshold])
        rest = tasks[threshold:]
        assert claim(yard, rest[0]) is Refusal.BREAKER_OPEN
        with transaction(yard.engine) as session:
            session.execute(text("UPDATE vm_hosts SET breaker_open_until = now()"))
        trial = got(yard, rest[0])
        refuse(yard, rest[1:])
        settled = settle(yard, trial, DOWN)
        assert settled is not None
        assert {stop.stop_task_id for stop in settled.wake} == set(rest[1:])
        got(yard, rest[1])
        got(yard, rest[2])

    def test_a_failed_trial_opens_it_again(self, yard: Yard) -> None:
        threshold = yard.settings.breaker_threshold
        tasks = yard.accept(threshold + 2)
        self.open_it(yard, tasks[:threshold])
        with transaction(yard.engine) as session:
            session.execute(text("UPDATE vm_hosts SET breaker_open_until = now()"))
        settle(yard, got(yard, tasks[-1]), failure(Fate.UNREACHABLE))
        assert claim(yard, tasks[-2]) is Refusal.BREAKER_OPEN

    def test_force_stops_that_hang_open_it(self, yard: Yard) -> None:
        """Such a host answers questions, and holds each slot for a whole time-out."""
        threshold = yard.settings.breaker_threshold
        tasks = yard.accept(threshold + 1)
        for each in [got(yard, task) for task in tasks[:threshold]]:
            settle(yard, each, failure(Fate.UNKNOWN, ErrorCode.HOST_TIMEOUT))
        assert claim(yard, tasks[-1]) is Refusal.BREAKER_OPEN

    def test_an_error_from_the_host_closes_it(self, yard: Yard) -> None:
        (task,) = yard.accept()
        with transaction(yard.engine) as session:
            session.execute(text("UPDATE vm_hosts SET unreachable_count = 1"))
        settle(yard, got(yard, task), failure(Fate.TRANSIENT))
        with transaction(yard.engine) as session:
            assert session.scalars(select(VmHost.unreachable_count)).one() == 0

    def test_a_turn_that_never_asked_says_nothing_of_the_host(self, yard: Yard) -> None:
        (task,) = yard.accept()
        with transaction(yard.engine) as session:
            session.execute(text("UPDATE vm_hosts SET unreachable_count = 1"))
        settle(yard, got(yard, task), failure(Fate.TRANSIENT, ErrorCode.INTERNAL))
        with transaction(yard.engine) as session:
            assert session.scalars(select(VmHost.unreachable_count)).one() == 1

    def test_unreachable_does_not_count_as_a_failure_of_the_stop(self, yard: Yard) -> None:
        (task,) = yard.accept()
        settle(yard, got(yard, task), failure(Fate.UNREACHABLE))
        waiting = row(yard, task)
        assert (waiting.state, waiting.failures) == (StopState.SCHEDULED, 0)


def unreachable_since(yard: Yard) -> datetime | None:
    with transaction(yard.engine) as session:
        return session.scalars(select(VmHost.unreachable_since)).one()


class TestUnreachableSince:
    def test_the_first_of_them_until_an_answer(self, yard: Yard) -> None:
        first, second, third = yard.accept(3)
        settle(yard, got(yard, first), failure(Fate.UNREACHABLE))
        since = unreachable_since(yard)
        assert since is not None
        settle(yard, got(yard, second), failure(Fate.UNKNOWN, ErrorCode.HOST_TIMEOUT))
        assert unreachable_since(yard) == since
        settle(yard, got(yard, third), failure(Fate.FINAL))
        assert unreachable_since(yard) is None

    def test_a_stop_that_is_answered_ends_what_a_sync_noted(self, yard: Yard) -> None:
        (task,) = yard.accept()
        with transaction(yard.engine) as session:
            session.execute(text("UPDATE vm_hosts SET unreachable_since = now()"))
        settle(yard, got(yard, task), DOWN)
        assert unreachable_since(yard) is None
