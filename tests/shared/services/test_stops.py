"""Claiming and settling: who gets a stop, and what becomes of it."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select, text

from shared.database import driver_transaction, transaction
from shared.exceptions import HostBusyError
from shared.models.errors import ErrorCode, Fate
from shared.models.states import PowerState, StopState
from shared.models.turns import Claim, Exchange, Failure, Refusal, TurnResult
from shared.services.stops import ClaimedStop, Settled, claim_stop, settle_stop
from shared.storage.claims import claim_row, lock_host_of
from shared.tables import Cvm, StopAttempt, StopTask, VmHost


if TYPE_CHECKING:
    from uuid import UUID

    from tests.shared.conftest import Yard

ASKED = (Exchange(request="GetInfo", answer="200 {}", seconds=0.01),)
DOWN = TurnResult(power_state=PowerState.STOPPED, is_down=True, force_stopped=True, exchanges=ASKED)
NOT_YET = TurnResult(power_state=PowerState.STOPPING, force_stopped=True, exchanges=ASKED)


def failure(fate: Fate, code: ErrorCode = ErrorCode.HOST_ERROR) -> TurnResult:
    return TurnResult(
        power_state=None,
        failure=Failure(code=code, fate=fate, message="it said no"),
        exchanges=() if code is ErrorCode.INTERNAL else ASKED,
    )


def claim(yard: Yard, task: UUID) -> Claim | Refusal:
    with driver_transaction(yard.engine) as connection:
        claimed = claim_stop(connection, task, worker="w1", settings=yard.settings)
        return claimed.claim if isinstance(claimed, ClaimedStop) else claimed


def got(yard: Yard, task: UUID) -> Claim:
    claimed = claim(yard, task)
    assert isinstance(claimed, Claim)
    return claimed


def refuse(yard: Yard, tasks: list[UUID]) -> None:
    """Let the messages of some stops come to a host that is full."""
    assert {claim(yard, task) for task in tasks} == {Refusal.HOST_AT_CAP}


def settle(yard: Yard, claimed: Claim, result: TurnResult) -> Settled | None:
    with driver_transaction(yard.engine) as connection:
        return settle_stop(connection, claimed, result, settings=yard.settings)


def row(yard: Yard, task: UUID) -> StopTask:
    with transaction(yard.engine) as session:
        found = session.get_one(StopTask, task)
        session.expunge_all()
        return found


def alter(yard: Yard, task: UUID, change: str) -> None:
    """Change a stop's row behind everybody's back."""
    with transaction(yard.engine) as session:
        session.execute(text(f"UPDATE stop_tasks SET {change} WHERE id = :task"), {"task": task})  # noqa: S608 - the test's own text


def is_in_progress(yard: Yard, task: UUID) -> bool:
    with transaction(yard.engine) as session:
        found = session.scalar(select(Cvm.in_progress).join(StopTask).where(StopTask.id == task))
    assert found is not None
    return found


class TestClaiming:
    def test_once(self, yard: Yard) -> None:
        (task,) = yard.accept()
        claimed = got(yard, task)
        assert (claimed.attempt, claimed.seconds_since_force_stop) == (1, None)
        assert row(yard, task).state == StopState.STOPPING
        assert claim(yard, task) is Refusal.NOT_WAITING

    def test_by_many_at_once(self, yard: Yard) -> None:
        (task,) = yard.accept()
        results: list[Claim | Refusal] = []
        threads = [
            threading.Thread(target=lambda: results.append(claim(yard, task))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(isinstance(result, Claim) for result in results) == 1

    def test_unknown(self, yard: Yard) -> None:
        (task,) = yard.accept()
        alter(yard, task, "id = gen_random_uuid()")
        assert claim(yard, task) is Refusal.NOT_WAITING

    def test_not_due(self, yard: Yard) -> None:
        (task,) = yard.accept()
        alter(yard, task, "due_at = now() + interval '1 minute'")
        assert claim(yard, task) is Refusal.NOT_DUE

    def test_not_due_any_more_once_it_is_locked(self, yard: Yard) -> None:
        """Another worker may have had a turn while the lock was waited for."""
        (task,) = yard.accept()
        with driver_transaction(yard.engine) as connection:
            host = lock_host_of(connection, task)
            assert host is not None
            alter(yard, task, "due_at = now() + interval '1 minute'")
            claimed = claim_row(
                connection,
                task,
                host,
                worker="w1",
                lease=timedelta(seconds=9),
                breaker_threshold=3,
            )
            assert claimed is None

    def test_never_more_than_the_cap(self, yard: Yard) -> None:
        """Without the host's lock, claims that run at once each see a free place."""
        tasks = yard.accept(24, cap=3)
        barrier = threading.Barrier(len(tasks))
        results: list[Claim | Refusal] = []

        def try_one(task: UUID) -> None:
            barrier.wait()
            results.append(claim(yard, task))

        threads = [threading.Thread(target=try_one, args=(task,)) for task in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(isinstance(result, Claim) for result in results) == 3
        assert set(results) - {r for r in results if isinstance(r, Claim)} == {Refusal.HOST_AT_CAP}

    def test_a_row_that_somebody_holds_is_not_waited_for_long(self, yard: Yard) -> None:
        """Each claim that waits has one of the few connections that all hosts share."""
        (held,), (free,) = yard.accept(), yard.accept()
        with transaction(yard.engine) as holder:
            host = holder.get_one(StopTask, held).vm_host_id
            holder.execute(select(VmHost).where(VmHost.id == host).with_for_update())
            results: list[Claim | Refusal | Exception] = []

            def try_held() -> None:
                try:
                    results.append(claim(yard, held))
                except HostBusyError as error:
                    results.append(error)

            threads = [threading.Thread(target=try_held) for _ in range(40)]
            for thread in threads:
                thread.start()
            got(yard, free)  # with the pool of 20 all taken by those that wait at first
            for thread in threads:
                thread.join()
        assert {type(result) for result in results} == {HostBusyError}
        got(yard, held)

    def test_hosts_do_not_share_their_caps(self, yard: Yard) -> None:
        first, second = yard.accept(2, cap=1), yard.accept(2, cap=1)
        got(yard, first[0])
        assert claim(yard, first[1]) is Refusal.HOST_AT_CAP
        got(yard, second[0])


class TestSettling:
    def test_down_is_success(self, yard: Yard) -> None:
        (task,) = yard.accept()
        claimed = got(yard, task)
        assert is_in_progress(yard, task)
        settled = settle(yard, claimed, DOWN)
        assert settled is not None
        assert settled.state is StopState.SUCCEEDED
        assert not is_in_progress(yard, task)
        with transaction(yard.engine) as session:
            assert session.scalars(select(Cvm.status)).one() == "stopped"

    def test_an_accepted_force_stop_is_not(self, yard: Yard) -> None:
        (task,) = yard.accept()
        settle(yard, got(yard, task), NOT_YET)
        assert row(yard, task).state == StopState.CONFIRMING
        assert is_in_progress(yard, task)

    def test_confirming_is_claimed_again_and_knows_of_the_force_stop(self, yard: Yard) -> None:
        (task,) = yard.accept()
        settle(yard, got(yard, task), NOT_YET)
        assert claim(yard, task) is Refusal.NOT_DUE
        alter(yard, task, "due_at = now()")
        claimed = got(yard, task)
        assert claimed.attempt == 2
        assert claimed.seconds_since_force_stop is not None

    def test_a_transient_failure_is_tried_again_until_the_last(self, yard: Yard) -> None:
        (task,) = yard.accept()
        for number in range(1, yard.settings.stop_max_failures + 1):
            alter(yard, task, "due_at = now()")
            settle(yard, got(yard, task), failure(Fate.TRANSIENT))
            assert row(yard, task).failures == number
        final = row(yard, task)
        assert (final.state, final.error_code) == (StopState.FAILED, ErrorCode.HOST_ERROR)
        assert final.error_message == "it said no"
        assert not is_in_progress(yard, task)

    def test_a_final_failure_fails_now(self, yard: Yard) -> None:
        (task,) = yard.accept()
        settle(yard, got(yard, task), failure(Fate.FINAL, ErrorCode.CREDENTIALS_REFUSED))
        assert row(yard, task).state == StopState.FAILED

    def test_an_unknown_outcome_is_looked_at_again(self, yard: Yard) -> None:
        (task,) = yard.accept()
        settle(yard, got(yard, task), failure(Fate.UNKNOWN))
        assert row(yard, task).state == StopState.CONFIRMING

    @pytest.mark.parametrize("result", [NOT_YET, failure(Fate.TRANSIENT)])
    def test_past_the_deadline_it_fails_with_the_reason(
        self, yard: Yard, result: TurnResult
    ) -> None:
        (task,) = yard.accept()
        claimed = got(yard, task)
        alter(yard, task, "deadline_at = now() - interval '1 second'")
        settle(yard, claimed, result)
        final = row(yard, task)
        assert (final.state, final.error_code) == (StopState.FAILED, ErrorCode.DEADLINE_EXCEEDED)
        assert final.error_message is not None
        assert "deadline" in final.error_message

    def test_a_force_stop_that_was_not_sent_is_not_told_of(self, yard: Yard) -> None:
        """A VM that its host is removing is sent none."""
        (task,) = yard.accept()
        claimed = got(yard, task)
        alter(yard, task, "deadline_at = now() - interval '1 second'")
        settle(yard, claimed, TurnResult(power_state=PowerState.REMOVING, exchanges=ASKED))
        message = row(yard, task).error_message
        assert message == (
            "not confirmed before the deadline: the host still reports the VM removing"
        )

    def test_down_past_the_deadline_is_success_all_the_same(self, yard: Yard) -> None:
        (task,) = yard.accept()
        claimed = got(yard, task)
        alter(yard, task, "deadline_at = now() - interval '1 second'")
        settle(yard, claimed, DOWN)
        assert row(yard, task).state == StopState.SUCCEEDED

    def test_attempts_stay(self, yard: Yard) -> None:
        (task,) = yard.accept()
        exchange = Exchange(request="StopVm", answer="500 oops", seconds=0.1)
        first = TurnResult(
            power_state=PowerState.RUNNING,
            failure=Failure(code=ErrorCode.HOST_ERROR, fate=Fate.TRANSIENT, message="oops"),
            exchanges=(exchange,),
        )
        settle(yard, got(yard, task), first)
        alter(yard, task, "due_at = now()")
        settle(yard, got(yard, task), DOWN)
        with transaction(yard.engine) as session:
            query = select(StopAttempt).order_by(StopAttempt.number)
            attempts = session.scalars(query).all()
            outcomes = [(each.number, each.outcome, each.error_code) for each in attempts]
            assert attempts[0].exchanges == [exchange.as_json()]
        assert outcomes == [(1, "retry", "host_error"), (2, "succeeded", None)]


class TestFencing:
    """I4: a late or repeated worker changes nothing."""

    def assert_nothing_changes(self, yard: Yard, late: Claim, result: TurnResult) -> None:
        with transaction(yard.engine) as session:
            before = session.execute(text("SELECT * FROM stop_tasks, stop_attempts, cvms")).all()
        assert settle(yard, late, result) is None
        with transaction(yard.engine) as session:
            after = session.execute(text("SELECT * FROM stop_tasks, stop_attempts, cvms")).all()
        assert before == after

    def test_settled_twice(self, yard: Yard) -> None:
        (task,) = yard.accept()
        claimed = got(yard, task)
        settle(yard, claimed, failure(Fate.FINAL))
        self.assert_nothing_changes(yard, claimed, DOWN)

    def test_claimed_anew(self, yard: Yard) -> None:
        (task,) = yard.accept()
        late = got(yard, task)
        alter(yard, task, "state = 'scheduled', lease_expires_at = NULL")
        got(yard, task)
        self.assert_nothing_changes(yard, late, DOWN)

    def test_lease_ran_out(self, yard: Yard) -> None:
        (task,) = yard.accept()
        late = got(yard, task)
        alter(yard, task, "lease_expires_at = now() - interval '1 second'")
        self.assert_nothing_changes(yard, late, DOWN)


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


class TestTheSchemaItself:
    """What code may get wrong, the database refuses."""

    def test_no_second_open_stop_on_a_cvm(self, yard: Yard) -> None:
        (task,) = yard.accept()
        with (
            pytest.raises(Exception, match="uq_stop_tasks_open_cvm"),
            transaction(yard.engine) as session,
        ):
            session.execute(
                text(
                    "INSERT INTO stop_tasks (batch_id, cvm_id, workspace_id, vm_host_id, vm_uuid,"
                    " request_id, deadline_at) SELECT batch_id, cvm_id, workspace_id, vm_host_id,"
                    " vm_uuid, request_id, deadline_at FROM stop_tasks WHERE id = :task"
                ),
                {"task": task},
            )

    def test_in_progress_exactly_while_open(self, yard: Yard) -> None:
        tasks = yard.accept(4)
        settle(yard, got(yard, tasks[0]), DOWN)
        settle(yard, got(yard, tasks[1]), failure(Fate.FINAL))
        settle(yard, got(yard, tasks[2]), NOT_YET)
        with transaction(yard.engine) as session:
            differing = session.scalar(
                select(func.count())
                .select_from(StopTask)
                .join(Cvm)
                .where(Cvm.in_progress != StopTask.finished_at.is_(None))
            )
        assert differing == 0
