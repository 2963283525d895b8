"""One cluster for all of them. A test leaves it well; what it printed is summed up at the end."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import leaks
from tests.system.faults.cluster import Cluster
from tests.system.faults.run import Run, assert_nothing_lost, settling_time
from tests.system.faults.small_disk import may_mount


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.faults.run import Report

SPARE = 1.5
"""CVMs for each stop of a run: most are asked for once, some again."""

REPORTS = pytest.StashKey[list["Report"]]()
SETTLING = pytest.StashKey[float]()
MAY_MOUNT = pytest.StashKey[bool]()
SEED = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--stops", type=int, default=2_000, help="accepted stops in each run, at least")
    group.addoption("--faults-seed", type=int, default=None, help="of the runs; printed at the end")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "small_disk: mounts a file system of its own")
    config.stash[REPORTS] = []
    with tempfile.TemporaryDirectory() as directory:
        config.stash[MAY_MOUNT] = may_mount(Path(directory) / "tried")
    seed: int | None = config.getoption("--faults-seed")
    config.stash[SEED] = random.randrange(2**31) if seed is None else seed  # noqa: S311 - no secret


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.stash[MAY_MOUNT]:
        config.hook.pytest_deselected(
            items=[item for item in items if item.get_closest_marker("small_disk")]
        )
        items[:] = [item for item in items if not item.get_closest_marker("small_disk")]


@pytest.fixture(scope="session")
def whole_cluster(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    cvms = int(pytestconfig.getoption("--stops") * SPARE)
    with Cluster(tmp_path_factory.mktemp("cluster"), cvms=cvms) as cluster:
        pytestconfig.stash[SETTLING] = settling_time(cluster.settings())
        yield cluster
        cluster.make_well()
        logs = [*(cluster.directory / "logs").iterdir(), *cluster.directory.glob("*.jsonl")]
        leaked = leaks.in_files(cluster.secrets, logs)
        with cluster.connect() as connection, cluster.broker() as broker:
            leaked += leaks.in_rows(cluster.secrets, connection)
            leaked += leaks.in_messages(cluster.secrets, broker)
        assert not leaked


@pytest.fixture
def cluster(whole_cluster: Cluster) -> Iterator[Cluster]:
    """Give the cluster in good order, and put it back into it."""
    whole_cluster.make_well()
    yield whole_cluster
    whole_cluster.make_well()


@pytest.fixture
def seed(pytestconfig: pytest.Config) -> int:
    return pytestconfig.stash[SEED]


@pytest.fixture
def new_run(
    pytestconfig: pytest.Config, cluster: Cluster, seed: int
) -> Iterator[Callable[[str], Run]]:
    """Give what makes a run; each is judged when the test is over, and summed up at the end."""
    made: list[Run] = []

    def make(name: str) -> Run:
        made.append(Run(cluster, name, stops=pytestconfig.getoption("--stops"), seed=seed))
        return made[-1]

    yield make
    for run in made:
        pytestconfig.stash[REPORTS].append(run.report)
        assert_nothing_lost(run.report)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    reports = config.stash[REPORTS]
    if not reports:
        return
    say = terminalreporter.write_line
    terminalreporter.section(
        f"faults: seed {config.stash[SEED]}, settling time at most {config.stash[SETTLING]:g} s"
    )
    for report in reports:
        say(f"{report.name}: {report.judgement.line()}  ({report.seconds:.0f} s)")
        for fault, seconds in report.recovery.items():
            say(f"    {fault}: last stop that was open at its end ended {seconds:.1f} s later")
        if report.own_ends:
            say(f"    ended by themselves and were started again: {report.own_ends}")
        answers = ", ".join(f"{count} x {kind}" for kind, count in sorted(report.answers.items()))
        say(f"    answers: {answers}")
        for note in report.notes:
            say(f"    {note}")
    if not config.stash[MAY_MOUNT]:
        say("not tried: full disks; this machine lets nobody mount a file system")
    lost = sum(report.judgement.lost + report.judgement.open for report in reports)
    broken = sum(len(report.judgement.broken) for report in reports)
    stops = sum(report.judgement.accepted for report in reports)
    say(f"{len(reports)} runs, {stops} stops: lost {lost}, broken invariants {broken}")
