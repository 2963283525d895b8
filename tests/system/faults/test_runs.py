"""Runs of thousands of stops, each with its kind of fault; then all of them at random together."""

from __future__ import annotations

import random
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.system.faults import faults
from tests.system.faults.broker_faults import scrambled_messages


if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.faults.cluster import Cluster
    from tests.system.faults.run import Run
    from tests.system.faults.strikes import Fault


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("API and dispatcher", {**faults.API_FAULTS, **faults.DISPATCHER_FAULTS}),
        ("workers", faults.WORKER_FAULTS),
        ("broker", faults.BROKER_FAULTS),
        ("database", faults.DATABASE_FAULTS),
        ("hosts", faults.HOST_FAULTS),
    ],
)
def test_one_kind_of_fault(
    new_run: Callable[[str], Run], seed: int, name: str, kinds: dict[str, Fault]
) -> None:
    """Bring on each fault of a kind, one after the other, spread over the run."""
    run = new_run(name)
    chance = random.Random(seed)  # noqa: S311 - chooses whom to strike
    _bring_on(run, list(kinds.items()), chance)


def test_messages_many_times_over(new_run: Callable[[str], Run], seed: int) -> None:
    """Deliver every message two to five times, in random order."""
    run = new_run("messages many times over")
    chance = random.Random(seed)  # noqa: S311 - shuffles
    with scrambled_messages(run.cluster, chance), run.running():
        pass


def test_several_dispatchers(cluster: Cluster, new_run: Callable[[str], Run]) -> None:
    """Two share the work, then four: every stop is taken by one of them at a time."""
    run = new_run("two dispatchers, then four")
    with ExitStack() as stack, cluster.broker() as broker:

        def add(*names: str) -> None:
            for name in names:
                stack.callback(cluster.remove_part, name)
                cluster.add_part(name, "dispatcher").start()
            for name in names:
                cluster.parts[name].wait_until_ready()

        add("dispatcher-2")
        with run.running() as clients:
            for tenth in range(1, 11):
                clients.wait_for(run.stops * tenth // 10)
                broker.flushall()  # so that all of it is theirs to send
                if tenth == 5:
                    add("dispatcher-3", "dispatcher-4")


def test_all_at_random(new_run: Callable[[str], Run], seed: int) -> None:
    """Bring on faults of all kinds, in the order that the seed gives."""
    run = new_run("all at random")
    chance = random.Random(seed)  # noqa: S311 - chooses what happens
    order = list(faults.ALL_FAULTS.items())
    chance.shuffle(order)
    _bring_on(run, order, chance)


def _bring_on(run: Run, order: list[tuple[str, Fault]], chance: random.Random) -> None:
    """Spread faults over a run, except those of disks where nobody may mount one."""
    if not run.cluster.database_disk.is_small:
        order = [(name, fault) for name, fault in order if name not in faults.DISK_FAULTS]
    with run.running() as clients:
        for number, (name, fault) in enumerate(order):
            clients.wait_for(run.stops * (number + 1) // (len(order) + 2))
            run.note(name)
            fault(run.cluster, chance)
