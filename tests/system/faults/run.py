"""One run: clients post all the while, faults strike, and at the end it is judged."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.system.faults.clients import Clients
from tests.system.faults.judgement import Judgement, judge
from tests.system.faults.machines import WELL
from tests.system.faults.observer import Observer


if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.settings import Settings
    from tests.system.faults.cluster import Cluster


def settling_time(settings: Settings) -> float:
    """Say within how many seconds the last accepted stop must have ended, whatever happened.

    A stop may be accepted at the last moment; its deadline passes; a turn that was claimed just
    before may run until its lease does; the dispatcher notices, gives one last look its time, and
    fails what nobody could look at.
    """
    return (
        settings.stop_deadline
        + settings.lease
        + settings.resend_after
        + 4 * settings.dispatch_interval
    )


@dataclass(kw_only=True)
class Report:
    """What a run has to say for itself."""

    name: str
    judgement: Judgement
    faults: tuple[str, ...]
    """What was brought on, in order."""
    seconds: float
    own_ends: dict[str, int]
    """Processes that ended though nobody made them, and were started again."""
    answers: dict[str, int]
    """How often each kind of answer came."""
    notes: list[str] = field(default_factory=list)


class Run:
    """A run; `running` is the time during which clients post.

    Parameters
    ----------
    cluster
        Made well before the run begins.
    name
        What the report calls it.
    stops
        How many are to be accepted, at least.
    seed
        Of what clients ask for.
    """

    def __init__(self, cluster: Cluster, name: str, *, stops: int, seed: int) -> None:
        self.cluster = cluster
        self.name = name
        self.stops = stops
        self._seed = seed
        self._faults: list[str] = []
        self._report: Report | None = None

    @property
    def report(self) -> Report:
        """The report, once the run is over."""
        assert self._report is not None, "the run is not over"
        return self._report

    @contextmanager
    def running(self) -> Iterator[Clients]:
        """Let clients post within the block; afterwards wait until all has ended, and judge."""
        began = time.monotonic()
        cluster = self.cluster
        machines = list(cluster.machines.values())
        for machine in machines:
            machine.behave(**WELL)
            machine.start_vms()
            machine.reset_gauge()
        offsets = {
            each.name: each.journal.stat().st_size if each.journal.exists() else 0
            for each in machines
        }
        before = {part.name: part.own_ends for part in cluster.parts.values()}
        with Observer(cluster) as observer:
            with Clients(
                cluster, wanted=self.stops, count_open=lambda: observer.open, seed=self._seed
            ) as clients:
                yield clients
                clients.wait_for(self.stops)
            self._wait_until_ended()
        with cluster.connect() as connection:
            judgement = judge(connection, machines, clients.answers, observer, offsets)
        judgement.broken += clients.problems
        self._report = Report(
            name=self.name,
            judgement=judgement,
            faults=tuple(self._faults),
            seconds=time.monotonic() - began,
            own_ends={
                part.name: part.own_ends - before[part.name]
                for part in cluster.parts.values()
                if part.name in before and part.own_ends > before[part.name]
            },
            answers=clients.statuses,
        )

    def note(self, fault: str) -> None:
        """Take note of a fault that is brought on, for the report."""
        self._faults.append(fault)

    def _wait_until_ended(self) -> None:
        """Wait until no stop is open, for the settling time at most; who is late is judged."""

        end = time.monotonic() + settling_time(self.cluster.settings())
        while self.cluster.count_open() and time.monotonic() < end:
            time.sleep(0.1)


def assert_nothing_lost(report: Report) -> None:
    """Fail unless every accepted stop ended and every invariant held."""
    judgement = report.judgement
    assert (judgement.lost, judgement.open) == (0, 0), judgement.line()
    assert not judgement.broken, judgement.broken
    assert judgement.force_stops_too_many == 0, judgement.line()
    # These faults all pass, and sooner than stops are given up.
    assert judgement.states.keys() == {"succeeded"}, judgement.line()
