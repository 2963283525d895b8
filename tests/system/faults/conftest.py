"""One cluster for all of them. A test leaves it well; what it printed is summed up at the end."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shared.settings import Settings
from tests.support import leaks
from tests.system.faults.assembly import running_cluster
from tests.system.faults.recovery import Recovery
from tests.system.faults.run import Report, Run, assert_nothing_lost, settling_time
from tests.system.faults.small_disk import may_mount
from tests.system.faults.summary import summary


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.faults.cluster import Cluster


SPARE = 1.5
"""CVMs for each stop of a run: most are asked for once, some again."""

REPORTS = pytest.StashKey[list[Report]]()
RECOVERIES = pytest.StashKey[list[Recovery]]()
SETTINGS = pytest.StashKey[Settings]()
MAY_MOUNT = pytest.StashKey[bool]()
SEED = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--stops", type=int, default=2_000, help="accepted stops in each run, at least")
    group.addoption("--faults-seed", type=int, default=None, help="of the runs; printed at the end")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "small_disk: mounts a file system of its own")
    config.stash[REPORTS] = []
    config.stash[RECOVERIES] = []
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
    with running_cluster(tmp_path_factory.mktemp("cluster"), cvms=cvms) as cluster:
        pytestconfig.stash[SETTINGS] = cluster.settings()
        yield cluster
        logs = [*(cluster.directory / "logs").iterdir(), *cluster.directory.glob("*.jsonl")]
        leaked = leaks.in_files(cluster.secrets, logs)
        with cluster.connect() as connection, cluster.broker() as broker:
            leaked += leaks.in_rows(cluster.secrets, connection)
            leaked += leaks.in_messages(cluster.secrets, broker)
        assert not leaked


@pytest.fixture
def cluster(whole_cluster: Cluster) -> Iterator[Cluster]:
    """Give the cluster in good order, and put it back into it, however the test ends."""
    yield whole_cluster
    whole_cluster.make_well()


@pytest.fixture
def seed(pytestconfig: pytest.Config) -> int:
    return pytestconfig.stash[SEED]


@pytest.fixture
def recoveries(pytestconfig: pytest.Config) -> list[Recovery]:
    """Give the list of what was measured, which is printed at the end."""
    return pytestconfig.stash[RECOVERIES]


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
    if SETTINGS in config.stash:
        settings = config.stash[SETTINGS]
        terminalreporter.section(
            f"faults: repeat with --faults-seed={config.stash[SEED]};"
            f" stops are given {settling_time(settings):g} s to end"
        )
        for line in summary(config.stash[REPORTS], config.stash[RECOVERIES], settings):
            terminalreporter.write_line(line)
    if not config.stash[MAY_MOUNT]:
        terminalreporter.write_line("not tried: full disks; nobody may mount a file system here")
