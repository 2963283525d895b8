"""Judges a run from outside: the answers that clients got, the rows, and the hosts' own logs."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.system.faults.findings import (
    STOPS,
    TURNS,
    Stop,
    Turn,
    changed_since,
    force_stops_outside,
    successes_nobody_saw,
    wrong_answers,
    wrong_rows,
)
from tests.system.faults.machines import CAP


if TYPE_CHECKING:
    from collections.abc import Iterable

    import psycopg

    from tests.system.faults.clients import Answered
    from tests.system.faults.machines import Machine
    from tests.system.faults.observer import Observer

LEAST_LOOKS = 10
"""How often the rows must have been looked at, for that to be worth something."""


@dataclass(kw_only=True)
class Judgement:
    """What became of the stops that were accepted in a run."""

    accepted: int
    states: Counter[str]
    lost: int
    """Counted as `stopped` in an answer, and there is no row of it."""
    force_stops_too_many: int
    """Force stops beyond one for each attempt."""
    broken: list[str] = field(default_factory=list)
    """Invariants that did not hold; a sentence each."""

    @property
    def open(self) -> int:
        return sum(self.states[state] for state in ("scheduled", "stopping", "confirming"))

    def line(self) -> str:
        """Say it in one line."""
        states = self.states
        return (
            f"accepted {self.accepted}, succeeded {states['succeeded']}, failed {states['failed']},"
            f" canceled {states['canceled']}, open {self.open}, lost {self.lost},"
            f" force stops beyond one per attempt {self.force_stops_too_many},"
            f" broken invariants {len(self.broken)}"
        )


def judge(
    connection: psycopg.Connection[tuple[Any, ...]],
    machines: Iterable[Machine],
    answers: list[Answered],
    observer: Observer,
    offsets: dict[str, int],
) -> Judgement:
    """Judge a run whose stops have all ended, or should have.

    Parameters
    ----------
    connection
        To the database.
    machines
        Hosts, whose logs say what they were asked and what they reported.
    answers
        What clients got.
    observer
        What was seen meanwhile.
    offsets
        Size in bytes of each host's log when the run began, by its name.
    """
    machines = list(machines)
    stops = [Stop(*row) for row in connection.execute(STOPS, {"since": observer.began})]
    turns = [Turn(*row) for row in connection.execute(TURNS, {"since": observer.began})]
    entries = [entry for machine in machines for entry in host_log(machine, offsets[machine.name])]
    by_batch = {answer.batch_id: answer for answer in answers}
    found = Counter(stop.batch_id for stop in stops)
    broken = [
        *sorted(observer.problems),
        *wrong_answers(answers),
        *wrong_rows(stops, by_batch),
        *changed_since(stops, observer.ended),
        *successes_nobody_saw(stops, entries),
    ]
    if observer.looks < LEAST_LOOKS:
        broken.append(f"the rows were looked at {observer.looks} times only")
    for machine in machines:
        at_once = machine.state()["stop_vm"]["max"]
        if at_once > CAP:
            broken.append(f"cap: {machine.name} saw {at_once} force stops at once")
    if running := sum(turn.outcome == "running" and turn.state != "stopping" for turn in turns):
        broken.append(f"{running} turns are running on stops that are not claimed")
    return Judgement(
        accepted=sum(answer.body["stopped"] for answer in by_batch.values()),
        states=Counter(stop.state for stop in stops),
        lost=sum(
            max(0, answer.body["stopped"] - found[batch]) for batch, answer in by_batch.items()
        ),
        force_stops_too_many=force_stops_outside(turns, entries),
        broken=broken,
    )


def host_log(machine: Machine, offset: int) -> list[dict[str, Any]]:
    """Read a host's log from an offset on; a line that a kill has torn says nothing."""
    with machine.journal.open("rb") as file:
        file.seek(offset)
        lines = file.read().split(b"\n")
    entries = []
    for line in lines:
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries
