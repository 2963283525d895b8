"""API, broker, dispatchers and workers, each one step at a time: what the state machine drives."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from shared.broker import Broker
from shared.database import driver_transaction, transaction
from shared.exceptions import (
    AdminOnlyError,
    BrokerUnavailableError,
    CvmBusyError,
    IdempotencyMismatchError,
    NotFoundError,
)
from shared.models.batches import BatchRequest
from shared.models.states import StopState
from shared.services import stops
from shared.services.batch_stop import accept_batch
from shared.services.canceling import cancel_batch, cancel_stop
from shared.services.operations import clear_operation, put_operation
from shared.services.retries import retry_batch, retry_stop
from shared.services.stops import ClaimedStop, claim_stop, settle_stop
from shared.storage.claims import lock_host_of
from shared.storage.dispatch import mark_unsent, take_due
from tests.shared.stop_watch import Watch
from tests.support.moved_clock import MovedClock
from tests.support.stepped_turn import SteppedTurn
from workers.dispatcher import ENOUGH_WAITING, run_round


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from uuid import UUID

    from psycopg import Connection

    from shared.models.batches import BatchAnswer
    from shared.models.callers import Caller
    from shared.models.turns import Claim, DueStop, TurnResult
    from shared.storage.claims import LockedForClaim
    from tests.shared.stop_world import World


class Delivery(StrEnum):
    """What becomes of messages that are sent."""

    ARRIVES = "arrives"
    LOST = "the broker takes them and loses them"
    AWAY = "the broker refuses them"
    HALF = "the broker takes half and refuses, and a worker has one before that is noticed"
    DIES = "the sender dies before it sends"


class DiedError(BaseException):
    """The process ends here. No `Exception`: nothing may handle it."""


class BagBroker(Broker):
    """Keeps messages in no order; each may be taken any number of times."""

    def __init__(self, *, work: Callable[[UUID], object]) -> None:
        self.bag: list[UUID] = []
        self.delivery = Delivery.ARRIVES
        self._work = work

    def count_waiting(self) -> int:
        return len(self.bag)

    def send_stops(self, stops: Sequence[DueStop]) -> None:
        ids = [stop.stop_task_id for stop in stops]
        match self.delivery:
            case Delivery.ARRIVES:
                self.bag += ids
            case Delivery.LOST:
                pass
            case Delivery.DIES:
                raise DiedError
            case Delivery.AWAY | Delivery.HALF:
                if self.delivery is Delivery.HALF and ids:
                    self.bag += ids[::2]
                    self._work(ids[0])
                raise BrokerUnavailableError(str(self.delivery))


class Actors:
    """All of them, on one database.

    Parameters
    ----------
    world
        What there is; its stops are forgotten.
    """

    def __init__(self, world: World) -> None:
        world.reset()
        self.world = world
        self.settings = world.settings
        self.clock = MovedClock(world.engine)
        self.watch = Watch(world.engine, self.clock)
        self.hosts = world.make_hosts(self.clock)
        self.broker = BagBroker(work=self.claim)
        self.hosts_recover = True
        """Whether the hosts are good again when the story has ended."""
        self.turns: list[SteppedTurn] = []
        """Claimed, not settled, and their worker lives."""
        self.settled: list[tuple[Claim, TurnResult]] = []
        """Everything that was ever brought to be settled."""
        self.in_hand: list[list[DueStop]] = []
        """What dispatchers have marked as sent and not sent yet."""
        self._answers: dict[tuple[UUID, str], tuple[BatchRequest, BatchAnswer]] = {}

    def send(self, stops: Sequence[DueStop], delivery: Delivery) -> None:
        """Send as the API and the workers do: whatever happens, the rows are committed."""
        self.broker.delivery = delivery
        with suppress(BrokerUnavailableError, DiedError):
            self.broker.send_stops(stops)

    def request(
        self, caller: Caller, ids: Sequence[str], *, key: str | None, delivery: Delivery
    ) -> None:
        """Ask for a batch, and check the answer."""
        request = BatchRequest(cvm_ids=tuple(ids), request_id="a request", idempotency_key=key)
        earlier = self._answers.get((caller.user_id, key)) if key else None
        if earlier and earlier[0] != request:
            with (
                pytest.raises(IdempotencyMismatchError),
                driver_transaction(self.world.engine) as connection,
            ):
                accept_batch(connection, caller, request, self.settings)
            return
        with driver_transaction(self.world.engine) as connection:
            answer = accept_batch(connection, caller, request, self.settings)
        assert answer.total == len(ids) == answer.stopped + answer.skipped + len(answer.errors)
        if earlier:
            first = earlier[1]
            assert (answer.batch_id, answer.to_send) == (first.batch_id, ())
            assert (answer.stopped, answer.errors) == (first.stopped, first.errors)
            return
        self._check_counts(caller, ids, answer)
        if key:
            self._answers[caller.user_id, key] = request, answer
        assert answer.batch_id is not None
        self.watch.accepted[answer.batch_id] = [stop.stop_task_id for stop in answer.to_send]
        self.send(answer.to_send, delivery)

    def retry(self, caller: Caller, stop_task_id: UUID, delivery: Delivery, *, whole: bool) -> None:
        """Try a stop again, or the failed ones of its batch; check the answer by the rows."""
        batch_id = self.watch.rows.tasks[stop_task_id].batch_id
        about, act = (batch_id, retry_batch) if whole else (stop_task_id, retry_stop)
        with suppress(NotFoundError, AdminOnlyError):
            with transaction(self.world.engine) as session:
                answer = act(session, caller, about, request_id="a retry", settings=self.settings)
            assert answer.total == answer.retried + len(answer.not_retried)
            assert answer.retried == len(answer.to_send)
            if answer.batch_id is None:
                return
            self.watch.accepted[answer.batch_id] = [stop.stop_task_id for stop in answer.to_send]
            tasks = self.watch.read().tasks
            for stop in answer.to_send:
                new = tasks[stop.stop_task_id]
                old = tasks[new.retry_of]
                assert old.batch_id == batch_id
                assert old.cvm_id == new.cvm_id
                assert old.state in {StopState.FAILED, StopState.CANCELED}
            self.send(answer.to_send, delivery)

    def cancel(self, caller: Caller, stop_task_id: UUID, *, whole: bool) -> None:
        """Cancel a stop, or what is open of its batch; check the answer by the rows."""
        before = self.watch.read().tasks
        batch_id = before[stop_task_id].batch_id
        about, act = (batch_id, cancel_batch) if whole else (stop_task_id, cancel_stop)
        with suppress(NotFoundError, AdminOnlyError):
            with transaction(self.world.engine) as session:
                answer = act(session, caller, about)
            assert answer.total == answer.canceled + len(answer.not_canceled)
            after = self.watch.read().tasks
            changed = [task for task in before.values() if after[task.id].state != task.state]
            assert len(changed) == answer.canceled
            for task in changed:
                assert after[task.id].state == StopState.CANCELED
                assert (task.state, task.force_stopped_at) == (StopState.SCHEDULED, None)

    def _check_counts(self, caller: Caller, ids: Sequence[str], answer: BatchAnswer) -> None:
        """Compare with the rows from before."""
        seen = [
            cvm
            for cvm in self.watch.rows.cvms.values()
            if cvm.hash_id in ids and caller.sees_only in {None, cvm.workspace_id}
        ]
        stoppable = [
            cvm for cvm in seen if cvm.vm_uuid and not cvm.in_progress and not cvm.gpu_rental_order
        ]
        known = {cvm.hash_id for cvm in seen}
        assert answer.stopped == len(stoppable) == len(answer.to_send)
        assert [each.cvm_id for each in answer.errors] == [id_ for id_ in ids if id_ not in known]

    def put_operation(self, hash_id: str, *, name: str, expires_in: int) -> None:
        """Let another control plane begin, renew or replace an operation; check the answer."""
        cvm = next(
            (each for each in self.watch.rows.cvms.values() if each.hash_id == hash_id), None
        )
        is_open = cvm is not None and cvm.id in self.watch.rows.operations
        expected = None if cvm is None else is_open or not cvm.in_progress
        try:
            with transaction(self.world.engine) as session:
                operation = put_operation(
                    session,
                    self.world.callers[0],
                    hash_id,
                    name=name,
                    expires_in=timedelta(seconds=expires_in),
                )
        except NotFoundError:
            assert expected is None
        except CvmBusyError:
            assert expected is False
        else:
            assert expected is True
            assert operation.expires_at > operation.started_at

    def clear_operation(self, hash_id: str) -> None:
        """Let another control plane say that it is done, whether it was or not."""
        with suppress(NotFoundError), transaction(self.world.engine) as session:
            clear_operation(session, hash_id)
        rows = self.watch.read()
        cvms = [each.id for each in rows.cvms.values() if each.hash_id == hash_id]
        assert not rows.operations.keys() & set(cvms)

    def dispatch(self, delivery: Delivery) -> None:
        """Run a dispatcher's whole round; it may die between taking and sending."""
        self.broker.delivery = delivery
        before = self.watch.read().now
        with suppress(DiedError):
            run_round(self.world.engine, self.broker, self.settings)
        self.watch.check_round(before, grace=timedelta(seconds=self.settings.resend_after))

    def take_due(self) -> None:
        """Let a dispatcher mark what it will send, and come to no more for now."""
        with transaction(self.world.engine) as session:
            due = take_due(
                session,
                resend_after=timedelta(seconds=self.settings.resend_after),
                breaker_threshold=self.settings.breaker_threshold,
                limit=ENOUGH_WAITING,
            )
        self.in_hand.append(due)

    def mark_unsent(self, due: Sequence[DueStop]) -> None:
        """Let a dispatcher take its marks back, however late."""
        with transaction(self.world.engine) as session:
            mark_unsent(session, [stop.stop_task_id for stop in due])

    def claim(self, stop_task_id: UUID) -> SteppedTurn | None:
        """Let a worker claim a stop, and begin its turn."""
        began = self.clock.monotonic()
        with driver_transaction(self.world.engine) as connection:
            claimed = claim_stop(connection, stop_task_id, worker="w@1", settings=self.settings)
        if not isinstance(claimed, ClaimedStop):
            return None
        claim = claimed.claim
        self.watch.check_claimed(claim, breaker_threshold=self.settings.breaker_threshold)
        turn = SteppedTurn(
            claim,
            self.settings,
            host=self.hosts[claim.vm_host_id],
            clock=self.clock,
            began=began,
            before_stop=self.watch.check_force_stop,
        )
        self.watch.told[claim.stop_task_id, claim.attempt] = turn.told
        self.turns.append(turn)
        return turn

    def end_turn(self, turn: SteppedTurn, delivery: Delivery) -> None:
        """Let a worker finish its turn and settle it."""
        self.turns.remove(turn)
        self.settle(turn.claim, turn.finish(), delivery)

    def settle(self, claim: Claim, result: TurnResult, delivery: Delivery) -> None:
        """Settle; a claim that is worth nothing any more must change nothing (I4)."""
        self.settled.append((claim, result))
        before = self.watch.read()
        task = before.tasks[claim.stop_task_id]
        is_current = task.state == StopState.STOPPING and task.attempt == claim.attempt
        is_late = not is_current or task.lease_expires_at <= before.now
        with driver_transaction(self.world.engine) as connection:
            settled = settle_stop(connection, claim, result, settings=self.settings)
        if settled is not None:
            assert not is_late, "I4: a late worker settled a stop"
            self.send(settled.wake, delivery)
        elif is_current and not is_late:
            # Only if the lease ran out in this moment.
            assert task.lease_expires_at <= self.watch.read().now, "a good claim refused"
        else:
            after = self.watch.read()
            assert (after.tasks, after.attempts) == (before.tasks, before.attempts), "I4"
            assert (after.cvms, after.hosts) == (before.cvms, before.hosts), "I4"

    @contextmanager
    def interrupted(self, by: Callable[[], None]) -> Iterator[Callable[[], bool]]:
        """Let something happen right before a claim takes its locks.

        Gives a function that says whether it has.
        """
        waiting = [by]

        def lock_later(connection: Connection[Any], stop_task_id: UUID) -> LockedForClaim | None:
            while waiting:
                waiting.pop()()
            return lock_host_of(connection, stop_task_id)

        with patch.object(stops, "lock_host_of", lock_later):
            yield lambda: not waiting
