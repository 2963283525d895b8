"""Any interleaving of requests, messages, dispatchers, workers, hosts and time: I1 to I5 hold.

Hypothesis makes up the story: each rule is one transaction, or one step of an actor, of the real
services on the real database. After each step the rows are checked, and at the end of a story
every stop must end.

A failing story is printed as a program, with the line that repeats it: put that decorator on
`StopMachine`. `pytest --hypothesis-seed=N` repeats a whole run.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from shared.models.states import PowerState
from tests.shared.stop_actors import Actors, Delivery
from tests.shared.stop_drain import drain
from tests.shared.stop_world import CAPS, SHORT, make_world
from tests.support.model_host import NEVER, ModelVm, Mood


if TYPE_CHECKING:
    from sqlalchemy import Engine

    from shared.settings import Settings
    from tests.shared.stop_world import World

Item = TypeVar("Item")

VMS = sum(cap + 1 for cap in CAPS)
"""VMs on hosts."""

CVMS = VMS + 4
"""Ids to ask for: VMs on hosts, two CVMs without one, one that a rental manages, one unknown."""

LEASE = int(SHORT["lease"]) + 1
"""Seconds after which a claim is worth nothing."""

DEADLINE = int(SHORT["stop_deadline"]) + 10
"""Seconds after which a stop is overdue."""

UNKNOWN = UUID(int=0)
"""Id of no stop."""

which = st.integers(0, 11)
"""Chooses one of however many there are; the choice must not depend on how fast the test runs."""


class Rival(StrEnum):
    """Who is faster than a worker that claims a stop."""

    SAME = "another worker claims it"
    SAME_WHOLE_TURN = "another worker claims it, and settles it"
    ALL_OTHERS = "the host's other stops are claimed"


moods = st.one_of(st.just(Mood.WELL), st.sampled_from(Mood))

deaths = st.sampled_from((0, 0, 1, 5, 40, NEVER))

deliveries = st.sampled_from(Delivery)


class StopMachine(RuleBasedStateMachine):
    """The stories. No rule has a precondition: one with nothing to work on does nothing."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.actors = Actors(self.world)

    @initialize(
        delivery=deliveries,
        deaths=st.lists(deaths, min_size=VMS, max_size=VMS),
        moods=st.lists(moods, min_size=len(CAPS), max_size=len(CAPS)),
        hosts_recover=st.sampled_from((True, True, False)),
    )
    def everything_is_to_be_stopped(
        self, delivery: Delivery, deaths: list[int], moods: list[Mood], *, hosts_recover: bool
    ) -> None:
        self.actors.hosts_recover = hosts_recover
        for host, mood in zip(self.actors.hosts.values(), moods, strict=True):
            host.mood = mood
        for index, seconds in enumerate(deaths):
            self.vm(index).dies_after = seconds
        self.actors.request(self.world.callers[0], self.world.cvm_ids, key=None, delivery=delivery)

    @rule(
        caller=st.integers(0, 2),
        cvms=st.lists(st.integers(0, CVMS - 1), max_size=6),
        key=st.sampled_from((None, None, "a", "b")),
        repeats=st.booleans(),
        delivery=deliveries,
    )
    def request(
        self, caller: int, cvms: list[int], key: str | None, *, repeats: bool, delivery: Delivery
    ) -> None:
        ids = [self.world.cvm_ids[cvm] for cvm in cvms]
        for _ in range(1 + repeats):
            self.actors.request(self.world.callers[caller], ids, key=key, delivery=delivery)
            self.actors.watch.check()

    @rule(
        cvm=st.integers(0, CVMS - 1),
        name=st.sampled_from(("resize", "move")),
        expires_in=st.sampled_from((1, 5, LEASE, DEADLINE)),
    )
    def another_works_on_a_cvm(self, cvm: int, name: str, expires_in: int) -> None:
        """Or has said so before, and says it again."""
        self.actors.put_operation(self.world.cvm_ids[cvm], name=name, expires_in=expires_in)

    @rule(cvm=st.integers(0, CVMS - 1))
    def another_is_done_with_a_cvm(self, cvm: int) -> None:
        """Or was done before, or a stop is open on it."""
        self.actors.clear_operation(self.world.cvm_ids[cvm])

    @rule(cvm=st.integers(0, CVMS - 1), delivery=deliveries)
    def another_dies_and_its_operation_expires(self, cvm: int, delivery: Delivery) -> None:
        self.actors.put_operation(self.world.cvm_ids[cvm], name="resize", expires_in=5)
        self.actors.clock.advance(5)
        self.actors.dispatch(delivery)

    @rule(caller=st.integers(0, 2), index=which, whole=st.booleans(), delivery=deliveries)
    def operator_retries(self, caller: int, index: int, delivery: Delivery, *, whole: bool) -> None:
        """A stop that ended, the newest first, or the failed ones of its batch."""
        task = pick(self.actors.watch.rows.ended_tasks(), index)
        if task:
            self.actors.retry(self.world.callers[caller], task, delivery, whole=whole)

    @rule(caller=st.integers(0, 2), index=which, whole=st.booleans(), is_open=st.booleans())
    def operator_cancels(self, caller: int, index: int, *, whole: bool, is_open: bool) -> None:
        """A stop that is open, or one that ended; or its whole batch."""
        rows = self.actors.watch.rows
        task = pick(rows.open_tasks() if is_open else rows.ended_tasks(), index)
        if task:
            self.actors.cancel(self.world.callers[caller], task, whole=whole)

    @rule(index=which, everything=st.booleans())
    def messages_are_lost(self, index: int, *, everything: bool) -> None:
        bag = self.actors.broker.bag
        lost = pick(bag, index)
        if everything:
            bag.clear()
        elif lost:
            bag.remove(lost)

    @rule(delivery=deliveries)
    def dispatcher_runs(self, delivery: Delivery) -> None:
        self.actors.dispatch(delivery)

    @rule(index=which, delivery=deliveries)
    def dispatcher_is_slow(self, index: int, delivery: Delivery) -> None:
        """It marks what it will send; one that did so earlier comes to send, or to give up."""
        if index % 2:
            self.actors.take_due()
        due = pick(self.actors.in_hand, index)
        if due and not index % 2:
            self.actors.in_hand.remove(due)
            self.actors.send(due, delivery)
            if delivery in {Delivery.AWAY, Delivery.HALF}:
                self.actors.mark_unsent(due)

    @rule(index=which, stays=st.booleans(), delivery=deliveries)
    def worker_takes_a_whole_turn(self, index: int, *, stays: bool, delivery: Delivery) -> None:
        turn = self.actors.claim(self.message(index, stays=stays))
        if turn:
            self.actors.end_turn(turn, delivery)

    @rule(index=st.integers(0, 30), calls=st.integers(0, 4), is_old=st.booleans())
    def worker_claims(self, index: int, calls: int, *, is_old: bool) -> None:
        """By a message; an old one may be of any stop ever accepted, or of none."""
        ever = [task for tasks in self.actors.watch.accepted.values() for task in tasks]
        old = [*ever, UNKNOWN][index % (len(ever) + 1)]
        turn = self.actors.claim(old if is_old else self.message(index, stays=False))
        if turn:
            turn.step(calls)

    @rule(ends=st.booleans(), delivery=deliveries)
    def workers_claim_all(self, delivery: Delivery, *, ends: bool) -> None:
        """As many workers as there are stops; each host lets in no more than it may."""
        claimed = [self.actors.claim(task) for task in self.actors.watch.rows.open_tasks()]
        for turn in claimed:
            if turn and ends:
                self.actors.end_turn(turn, delivery)

    @rule(index=which, rival=st.sampled_from(Rival))
    def workers_claim_at_once(self, index: int, rival: Rival) -> None:
        """Others come between a worker's unlocked look, which lets it in, and its locks."""
        waiting = self.actors.watch.rows.open_tasks()
        for message in [*waiting[index:], *waiting[:index]]:
            with self.actors.interrupted(partial(self.rival_comes, rival, message)) as has_come:
                self.actors.claim(message)
            if has_come():
                return

    def rival_comes(self, rival: Rival, message: UUID) -> None:
        if rival is Rival.ALL_OTHERS:
            for task in self.actors.watch.rows.open_tasks():
                if task != message:
                    self.actors.claim(task)
            return
        turn = self.actors.claim(message)
        if turn and rival is Rival.SAME_WHOLE_TURN:
            self.actors.end_turn(turn, Delivery.ARRIVES)

    @rule(index=which, calls=st.integers(1, 4))
    def worker_goes_on(self, index: int, calls: int) -> None:
        turn = pick(self.actors.turns, index)
        if turn:
            turn.step(calls)

    @rule(index=which, delivery=deliveries)
    def worker_settles(self, index: int, delivery: Delivery) -> None:
        turn = pick(self.actors.turns, index)
        if turn:
            self.actors.end_turn(turn, delivery)

    @rule(index=which, delivery=deliveries)
    def worker_settles_again(self, index: int, delivery: Delivery) -> None:
        settled = pick(self.actors.settled[::-1], index)
        if settled:
            self.actors.settle(*settled, delivery)

    @rule(index=which, delivery=deliveries, settles=st.booleans())
    def worker_is_overtaken(self, index: int, delivery: Delivery, *, settles: bool) -> None:
        """It is held up until its lease is over and another worker has the stop."""
        turn = pick(self.actors.turns, index)
        if turn:
            self.actors.clock.advance(LEASE)
            self.actors.dispatch(delivery)
            self.actors.claim(turn.claim.stop_task_id)
            if settles:
                self.actors.end_turn(turn, delivery)

    @rule(index=which)
    def worker_dies(self, index: int) -> None:
        turn = pick(self.actors.turns, index)
        if turn:
            self.actors.turns.remove(turn)

    @rule(index=which, mood=moods)
    def host_changes(self, index: int, mood: Mood) -> None:
        host = pick(list(self.actors.hosts.values()), index)
        assert host
        host.mood = mood

    @rule(index=which, state=st.sampled_from(PowerState))
    def vm_changes(self, index: int, state: PowerState) -> None:
        """By itself, or somebody does it: starts, ends, restarts, hangs, is removed."""
        vm = self.vm(index)
        if vm.state is not PowerState.ABSENT:
            vm.state, vm.killed_at = state, 0.0

    @rule(index=which, seconds=deaths)
    def vm_takes_time_to_die(self, index: int, seconds: int) -> None:
        self.vm(index).dies_after = seconds

    @rule(seconds=st.sampled_from((1, 2, 5, 5, 10, 10, LEASE, DEADLINE)))
    def time_passes(self, seconds: int) -> None:
        self.actors.clock.advance(seconds)

    @invariant()
    def all_is_in_order(self) -> None:
        self.actors.watch.check()

    def teardown(self) -> None:
        try:
            # A story that has failed already has something else to tell.
            if sys.exc_info()[0] is None:
                drain(self.actors)
        finally:
            self.actors.watch.close()

    def message(self, index: int, *, stays: bool) -> UUID:
        """Take a message out of the broker, or one of an open stop if there is none."""
        bag = self.actors.broker.bag
        message = pick(bag or self.actors.watch.rows.open_tasks(), index) or UNKNOWN
        if bag and not stays:
            bag.remove(message)
        return message

    def vm(self, index: int) -> ModelVm:
        vms = [vm for host in self.actors.hosts.values() for vm in host.vms.values()]
        return vms[index % len(vms)]


def pick(items: list[Item], index: int) -> Item | None:
    return items[index % len(items)] if items else None


def test_all_stories_end_well(clean: Engine, settings: Settings) -> None:
    class Story(StopMachine):
        world = make_world(clean, settings)

    run_state_machine_as_test(
        Story,
        settings=hypothesis_settings(
            max_examples=80,
            stateful_step_count=60,
            deadline=None,
            derandomize=False,
            print_blob=True,
            # A story takes as long as its transactions do.
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
