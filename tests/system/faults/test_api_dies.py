"""The API dies or stands still in the middle of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from shared.failpoints import Action, Failpoint
from tests.system.faults.scenario import Scenario
from tests.system.faults.strikes import struck_by


if TYPE_CHECKING:
    from tests.system.faults.cluster import Cluster


def test_killed_after_the_commit(cluster: Cluster) -> None:
    """Nothing was sent and the client knows nothing: the stops are carried out all the same.

    The client asks again, with the same key, and gets the answer that it should have got.
    """
    scenario = Scenario(cluster, 10)
    cluster.arm(Failpoint.API_COMMITTED, Action.KILL)
    with pytest.raises(httpx.TransportError):
        scenario.ask()
    part = struck_by(cluster, Failpoint.API_COMMITTED)
    found = cluster.query(
        "SELECT id FROM stop_batches WHERE idempotency_key LIKE %s", [f"{scenario.key}%"]
    )
    assert len(found) == 1
    scenario.batches[str(found[0][0])] = len(scenario.cvms)
    scenario.assert_all_stopped()
    part.start()
    part.wait_until_ready()
    answer = scenario.ask()
    assert answer.json() == {"total": 10, "stopped": 10, "skipped": 0, "errors": []}
    assert list(scenario.batches) == [str(found[0][0])]
    assert len(scenario.rows()) == 10
