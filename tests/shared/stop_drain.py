"""I2: from wherever a story has ended, every stop ends once the world is good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.models.operations import MAX_EXPIRES_IN
from shared.models.states import PowerState, StopState
from tests.shared.stop_actors import Delivery
from tests.support.model_host import Mood


if TYPE_CHECKING:
    from tests.shared.stop_actors import Actors

STEP = 6
"""Seconds between two of the dispatcher's rounds while the stops drain."""


def drain(actors: Actors) -> None:
    """From wherever the story ended, let the world be good: every stop must end (I2).

    Workers that had a turn are dead, and messages lost, so that only leases and the dispatcher can
    help. With hosts that recover, stops that have time left before their deadline must succeed;
    with hosts that stay as they are, it is enough that all end.
    """
    actors.turns.clear()
    actors.broker.bag.clear()
    if actors.hosts_recover:
        recover(actors)
    rows = actors.watch.rows
    soon, at_last = bounds(actors, len(rows.open_tasks()))
    must_succeed = {
        task
        for task in rows.open_tasks()
        if actors.hosts_recover and (rows.tasks[task].deadline_at - rows.now).total_seconds() > soon
    }
    began = actors.clock.monotonic()
    while actors.watch.rows.open_tasks():
        assert actors.clock.monotonic() < began + at_last, "I2: a stop does not end"
        actors.dispatch(Delivery.ARRIVES)
        while actors.broker.bag:
            turn = actors.claim(actors.broker.bag.pop(0))
            if turn:
                actors.end_turn(turn, Delivery.ARRIVES)
        actors.clock.advance(STEP)
        actors.watch.check()
    actors.clock.advance(MAX_EXPIRES_IN)
    actors.dispatch(Delivery.ARRIVES)
    actors.watch.check()
    assert not actors.watch.rows.operations, "an operation that nobody clears does not end"
    for task in must_succeed:
        row = actors.watch.rows.tasks[task]
        assert row.state == StopState.SUCCEEDED, f"in a good world: {row.error_message}"


def recover(actors: Actors) -> None:
    """Make every host well, and every VM one that dies at once."""
    for host in actors.hosts.values():
        host.mood = Mood.WELL
        for vm in host.vms.values():
            vm.dies_after = 0
            if vm.state is PowerState.REMOVING:
                vm.state = PowerState.ABSENT


def bounds(actors: Actors, stops: int) -> tuple[float, float]:
    """Seconds until stops end: by success with hosts that recover, and in any case."""
    settings = actors.settings
    turns = 3 * stops * (settings.look_seconds + settings.look_interval)
    longest_wait = max(
        settings.retry_backoff_max, settings.confirm_interval_max, settings.restart_guard
    )
    soon = (
        settings.lease  # of a dead worker
        + settings.breaker_cooldown
        + longest_wait  # until it is due
        + settings.resend_after  # its message was lost
        + settings.reissue_after  # somebody else's kill hangs
        + settings.restart_guard
        + longest_wait
        + turns  # of those before it
        + 3 * STEP
    )
    at_last = (
        settings.stop_deadline
        + settings.resend_after  # for one last look
        + settings.lease
        + stops * settings.turn_limit  # in this test workers take their turns one after the other
        + 3 * STEP
    )
    return soon, at_last
