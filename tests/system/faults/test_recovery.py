"""How long each fault is felt after it is over: from its end to the last stop's end.

One fault at a time, in the middle of 24 stops, and nothing else. The times are printed with the
bound that the settings give; they are not judged here, only that all stops end well, and that no
process of ours has ended for the sake of a server.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tests.system.faults import faults
from tests.system.faults.cluster import OURS
from tests.system.faults.machines import WELL
from tests.system.faults.recovery import STOP_SECONDS, Recovery
from tests.system.faults.scenario import Scenario


if TYPE_CHECKING:
    from tests.system.faults.cluster import Cluster

STOPS = 24


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.small_disk] if name in faults.DISK_FAULTS else [])
        for name in faults.ALL_FAULTS
    ],
)
def test_recovers(cluster: Cluster, recoveries: list[Recovery], seed: int, name: str) -> None:
    for machine in cluster.machines.values():
        machine.behave(stop_seconds=STOP_SECONDS)
    fault = faults.ALL_FAULTS[name]
    chance = random.Random(seed)  # noqa: S311 - chooses whom to strike
    pids = {each: cluster.parts[each].pid for each in OURS}
    scenario = Scenario(cluster, STOPS)
    if name in faults.STRIKES_AT_A_PLACE:  # armed before anybody comes by
        with scenario.asking():
            fault(cluster, chance)
    else:
        scenario.accept()
        scenario.wait_until_some("stopping", STOPS // 2)
        fault(cluster, chance)
    over = datetime.now(UTC)
    scenario.assert_all_stopped()
    last = max(datetime.fromisoformat(row["finished_at"]) for row in scenario.rows())
    recoveries.append(Recovery(name, max(0.0, (last - over).total_seconds())))
    if name in {*faults.BROKER_FAULTS, *faults.DATABASE_FAULTS}:
        _assert_all_carry_on(cluster, pids)


def _assert_all_carry_on(cluster: Cluster, pids: dict[str, int]) -> None:
    """Fail unless the same processes do what comes afterwards, too: nobody has ended."""
    for machine in cluster.machines.values():
        machine.behave(**WELL)
    afterwards = Scenario(cluster, STOPS // 2)
    afterwards.accept()
    afterwards.assert_all_stopped()
    assert {each: cluster.parts[each].pid for each in OURS} == pids
