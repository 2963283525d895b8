"""Which stop of a host is woken when a turn ends."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from shared.database import driver_transaction
from shared.models.errors import Fate
from shared.models.turns import Refusal
from shared.services.stops import Settled, claim_stop
from tests.shared.services.steps import DOWN, NOT_YET, alter, failure, got, refuse, settle


if TYPE_CHECKING:
    from uuid import UUID

    from tests.shared.conftest import Yard


class TestWaking:
    def test_an_ending_turn_wakes_one_that_waits(self, yard: Yard) -> None:
        tasks = yard.accept(3, cap=1)
        claimed = got(yard, tasks[0])
        refuse(yard, tasks[1:])
        settled = settle(yard, claimed, DOWN)
        assert settled is not None
        assert len(settled.wake) == 1
        assert settled.wake[0].stop_task_id in tasks[1:]

    def test_two_ending_turns_wake_different_ones(self, yard: Yard) -> None:
        tasks = yard.accept(6, cap=2)
        claims = [got(yard, task) for task in tasks[:2]]
        refuse(yard, tasks[2:])
        woken = [settle(yard, each, DOWN) for each in claims]
        ids = [stop.stop_task_id for each in woken if each for stop in each.wake]
        assert len(set(ids)) == 2

    def test_turns_without_end_do_not_keep_others_from_theirs(self, yard: Yard) -> None:
        """Ten VMs stop for ever on a host with two places: an eleventh is tried all the same."""
        *endless, patient = yard.accept(11, cap=2)
        alter(yard, patient, "due_at = now()")  # it came last
        claims = [got(yard, task) for task in endless[:2]]
        refuse(yard, [*endless[2:], patient])
        tried: list[UUID] = []
        while patient not in tried:
            settled = settle(yard, claims.pop(0), NOT_YET)
            assert settled is not None
            assert len(tried) < 2 * len(endless), "it has waited longest, and is not tried"
            tried += [stop.stop_task_id for stop in settled.wake]
            claims += [got(yard, stop.stop_task_id) for stop in settled.wake]
            for task in endless:  # the time that a confirmation waits passes at once
                alter(yard, task, "due_at = least(due_at, now())")

    def test_whose_message_is_under_way_is_not_woken(self, yard: Yard) -> None:
        """A second message would cost a worker as much as the first, and do nothing."""
        tasks = yard.accept(3, cap=1)
        claimed = got(yard, tasks[0])
        refuse(yard, tasks[2:])
        settled = settle(yard, claimed, DOWN)
        assert settled is not None
        assert [stop.stop_task_id for stop in settled.wake] == tasks[2:]
        got(yard, tasks[2])

    def test_a_refusal_and_an_ending_turn_do_not_miss_each_other(self, yard: Yard) -> None:
        """Were a stop put back without the host's lock, nobody would know of the free place."""
        first, second = yard.accept(2, cap=1)
        claimed = got(yard, first)
        with driver_transaction(yard.engine) as connection:
            refusal = claim_stop(connection, second, worker="w2", settings=yard.settings)
            assert refusal is Refusal.HOST_AT_CAP
            settling: list[Settled | None] = []
            ending = threading.Thread(target=lambda: settling.append(settle(yard, claimed, DOWN)))
            ending.start()
            ending.join(0.3)
            assert ending.is_alive(), "a turn ends while a refusal is not written down yet"
        ending.join()
        (settled,) = settling
        assert settled is not None
        assert [stop.stop_task_id for stop in settled.wake] == [second]

    def test_nobody_is_woken_on_a_host_that_does_not_answer(self, yard: Yard) -> None:
        tasks = yard.accept(3, cap=1)
        claimed = got(yard, tasks[0])
        refuse(yard, tasks[1:])
        settled = settle(yard, claimed, failure(Fate.UNREACHABLE))
        assert settled is not None
        assert settled.wake == ()
