"""Ways in which any part can be struck: killed, frozen, at random or at an exact place."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shared.failpoints import Action, Failpoint
from tests.support.waiting import eventually


if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from tests.system.faults.cluster import Cluster
    from tests.system.faults.part import Part

    Fault = Callable[[Cluster, random.Random], None]

MOMENT = 2.0
"""Seconds that a fault lasts which has no natural end: longer than every network time-out here."""


def struck_by(cluster: Cluster, place: Failpoint) -> Part:
    """Wait until somebody has come by an armed failpoint; gives who it was."""

    def struck() -> Part | None:
        part = cluster.struck(place)
        return part if part is not None and (not part.runs or part.is_frozen()) else None

    found = eventually(struck, timeout=60)
    assert found is not None
    for file in cluster.failpoints.glob(f"{place}.struck-*"):
        file.unlink()
    return found


def killed_at(place: Failpoint) -> Fault:
    """Make the fault in which whoever comes by a place next is killed there."""

    def fault(cluster: Cluster, _: random.Random) -> None:
        cluster.arm(place, Action.KILL)
        struck_by(cluster, place).start()

    return fault


def killed(*names: str) -> Fault:
    """Make the fault in which one of some parts is killed, whatever it is doing."""

    def fault(cluster: Cluster, chance: random.Random) -> None:
        part = cluster.parts[chance.choice(names)]
        part.kill()
        part.start()

    return fault


def frozen(*names: str, seconds: float = MOMENT) -> Fault:
    """Make the fault in which one of some parts stands still for a while."""

    def fault(cluster: Cluster, chance: random.Random) -> None:
        part = cluster.parts[chance.choice(names)]
        with standing_still(part):
            time.sleep(seconds)

    return fault


@contextmanager
def standing_still(part: Part) -> Iterator[None]:
    """Freeze a part for the block."""
    part.freeze()
    try:
        yield
    finally:
        part.thaw()


def worker_frozen_past_its_lease(cluster: Cluster, chance: random.Random) -> None:
    """Freeze a worker that has just claimed a stop until its leases have run out."""
    place = chance.choice([Failpoint.WORKER_CLAIMED, Failpoint.WORKER_TURN_TAKEN])
    cluster.arm(place, Action.FREEZE)
    part = struck_by(cluster, place)
    time.sleep(cluster.settings().lease + 1)
    part.thaw()
    part.wanted = True
