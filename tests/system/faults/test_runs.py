"""Runs of thousands of stops, each with its kind of fault; then all of them at random together."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.system.faults import faults


if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.faults.cluster import Cluster
    from tests.system.faults.faults import Fault
    from tests.system.faults.run import Run


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("API and dispatcher", {**faults.API_FAULTS, **faults.DISPATCHER_FAULTS}),
        ("workers", faults.WORKER_FAULTS),
        ("broker", faults.BROKER_FAULTS),
        ("database", faults.DATABASE_FAULTS),
        ("hosts", faults.HOST_FAULTS),
        pytest.param("full disks", faults.DISK_FAULTS, marks=pytest.mark.small_disk),
    ],
)
def test_one_kind_of_fault(
    new_run: Callable[[str], Run], seed: int, name: str, kinds: dict[str, Fault]
) -> None:
    """Bring on each fault of a kind, one after the other, spread over the run."""
    run = new_run(name)
    chance = random.Random(seed)  # noqa: S311 - chooses whom to strike
    with run.running() as clients:
        for number, (fault_name, fault) in enumerate(kinds.items()):
            clients.wait_for(run.stops * (number + 1) // (len(kinds) + 2))
            run.note(fault_name)
            fault(run.cluster, chance)


def test_messages_many_times_over(new_run: Callable[[str], Run], seed: int) -> None:
    """Deliver every message two to five times, in random order."""
    run = new_run("messages many times over")
    chance = random.Random(seed)  # noqa: S311 - shuffles
    with faults.scrambled_messages(run.cluster, chance), run.running():
        pass


@pytest.mark.parametrize("count", [2, 4])
def test_several_dispatchers(cluster: Cluster, new_run: Callable[[str], Run], count: int) -> None:
    """They share the work: every stop is taken by one of them a time."""
    names = [f"dispatcher-{number}" for number in range(2, count + 1)]
    for name in names:
        cluster.add_part(name, "dispatcher", {}).start()
    try:
        for name in names:
            cluster.parts[name].wait_until_ready()
        run = new_run(f"{count} dispatchers")
        with run.running() as clients, cluster.broker() as broker:
            while clients.accepted < run.stops:
                clients.wait_for(min(clients.accepted + run.stops // 10, run.stops))
                broker.flushall()  # so that all of it is theirs to send
    finally:
        for name in names:
            cluster.remove_part(name)


def test_all_at_random(new_run: Callable[[str], Run], seed: int) -> None:
    """Bring on faults of all kinds, in the order that the seed gives."""
    run = new_run("all at random")
    chance = random.Random(seed)  # noqa: S311 - chooses what happens
    order = list(faults.ALL_FAULTS.items())
    if run.cluster.database_disk.is_small:
        order += faults.DISK_FAULTS.items()
    chance.shuffle(order)
    with run.running() as clients:
        for number, (fault_name, fault) in enumerate(order):
            clients.wait_for(run.stops * (number + 1) // (len(order) + 2))
            run.note(fault_name)
            fault(run.cluster, chance)
