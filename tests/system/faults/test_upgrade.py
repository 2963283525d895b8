"""Processes are replaced, one after the other, while batches run."""

from __future__ import annotations

import signal
import subprocess
import tarfile
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import psutil
import pytest

from cli.stack.child import CHECKOUT
from tests.system.faults.cluster import OURS, WORKERS
from tests.system.faults.machines import CAP
from tests.system.faults.scenario import Scenario


if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.system.faults.cluster import Cluster
    from tests.system.faults.run import Run

OLD_VERSION = "5998e3a0d3cf75f7bf993b1e18b89c02c03b52ca"
"""The commit that brought today's schema: the oldest version that runs on it.

A change of the schema takes this on to a version that runs on the new one: that is what an upgrade
asks of it.
"""

ANOTHER_VERSION = "tests.system.faults.another_version"

PATIENT = {
    "CVMSTOP_LEASE": "60",
    "CVMSTOP_TURN_LIMIT": "50",
    "CVMSTOP_HOST_QUERY_TIMEOUT": "20",
    "CVMSTOP_HOST_STOP_TIMEOUT": "20",
}
"""For turns that are still under way when the last of many has begun."""

TURNS = 200
"""Turns that are under way when the worker is told to end: all of its slots."""


@pytest.fixture(scope="module")
def old_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a checkout of the old version."""
    done = subprocess.run(
        ["git", "archive", OLD_VERSION],  # noqa: S607 - git, wherever it is
        cwd=CHECKOUT,
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, "the repository's history is needed: git fetch --unshallow"
    directory = tmp_path_factory.mktemp("old")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(directory, filter="data")
    return directory


def test_rolling_upgrade(
    cluster: Cluster, new_run: Callable[[str], Run], old_version: Path
) -> None:
    """Old and new run side by side on one schema, in every mixture on the way."""
    parts = [cluster.parts[name] for name in OURS]
    for part in parts:
        part.tell_to_end()
    for part in parts:
        part.wait()
        part.run_within(ANOTHER_VERSION, str(old_version))
        part.start()
    for part in parts:
        part.wait_until_ready()
        assert psutil.Process(part.pid).cwd() == str(old_version)
    run = new_run("rolling upgrade")
    with run.running() as clients:
        for number, name in enumerate(["worker-1", "api", "dispatcher", "worker-2", "beat"]):
            clients.wait_for(run.stops * (number + 1) // 7)
            part = cluster.parts[name]
            run.note(f"{name} replaced")
            part.tell_to_end()
            # uvicorn, once it has ended in order, ends by the signal that it got.
            assert part.wait() in {0, -signal.SIGTERM}
            part.spec = part.usual
            part.start()
            part.wait_until_ready()


def test_worker_told_to_end_in_the_middle_of_200_turns(cluster: Cluster) -> None:
    """It finishes each of them, takes no new one, and ends well; the other does the rest."""
    leaving, staying = (cluster.parts[name] for name in WORKERS)
    leaving.tell_to_end()
    leaving.wait()
    leaving.spec = replace(leaving.usual, environment={**leaving.usual.environment, **PATIENT})
    leaving.start()
    leaving.wait_until_ready()
    with cluster.connect() as connection:
        connection.execute("UPDATE vm_hosts SET max_concurrent_stops = %s", [TURNS // 5])
    try:
        staying.freeze()
        for machine in cluster.machines.values():
            machine.behave(latency=10)
        scenario = Scenario(cluster, TURNS + 20)
        scenario.accept()
        scenario.wait_until_some("stopping", TURNS)
        leaving.tell_to_end()
        staying.thaw()
        for machine in cluster.machines.values():
            machine.behave(latency=0.005)
        assert leaving.wait() == 0
        taken = [each for each in scenario.attempts() if each.worker.startswith(leaving.name)]
        assert len(taken) >= TURNS
        assert not [each for each in taken if each.outcome in {"running", "lease_expired"}]
        scenario.assert_all_stopped()
        assert "lease_expired" not in scenario.outcomes()
    finally:
        leaving.spec = leaving.usual
        with cluster.connect() as connection:
            connection.execute("UPDATE vm_hosts SET max_concurrent_stops = %s", [CAP])
