"""Judges a run from outside: the answers that clients got, the rows, and the hosts' own logs."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tests.system.faults.machines import CAP


if TYPE_CHECKING:
    from collections.abc import Iterable

    import psycopg

    from tests.system.faults.clients import Answered
    from tests.system.faults.machines import Machine
    from tests.system.faults.observer import Observer

DOWN = {"stopped", "absent"}
"""What a host must have reported for a stop to have succeeded (I5)."""


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
    broken = sorted(observer.problems)
    by_batch = {answer.batch_id: answer.body for answer in answers}
    rows = connection.execute(
        "SELECT id::text, batch_id::text, state, attempt, finished_at, error_code, error_message,"
        " vm_uuid, accepted_at FROM stop_tasks WHERE accepted_at >= %s",
        [observer.began],
    ).fetchall()
    found = Counter(row[1] for row in rows)
    lost = sum(max(0, body["stopped"] - found[batch]) for batch, body in by_batch.items())
    broken += _sums_that_do_not_add_up(answers)
    if unknown := sum(found[batch] for batch in found if batch not in by_batch):
        broken.append(f"{unknown} stops are in no answer that anybody got")
    for row in rows:
        seen = observer.ended.get(row[0])
        if seen is not None and seen != (*row[2:7],):
            broken.append(f"I4: stop {row[0]} ended as {seen[0]} and has changed since")
    logs = {machine.name: _log(machine, offsets[machine.name]) for machine in machines}
    entries = [entry for log in logs.values() for entry in log]
    broken += _successes_nobody_saw(rows, entries)
    for machine in machines:
        at_once = machine.state()["stop_vm"]["max"]
        if at_once > CAP:
            broken.append(f"cap: {machine.name} saw {at_once} force stops at once")
    [(running,)] = connection.execute(
        "SELECT count(*) FROM stop_attempts JOIN stop_tasks ON id = stop_task_id"
        " WHERE outcome = 'running' AND state <> 'stopping'"
    )
    if running:
        broken.append(f"{running} attempts are running on stops that are not claimed")
    asked = Counter(entry["vm_id"] for entry in entries if entry["method"] == "StopVm")
    attempts = Counter[str]()
    for row in rows:
        attempts[row[7]] += row[3]
    return Judgement(
        accepted=sum(body["stopped"] for body in by_batch.values()),
        states=Counter(row[2] for row in rows),
        lost=lost,
        force_stops_too_many=sum(max(0, asked[vm] - attempts[vm]) for vm in asked),
        broken=broken,
    )


def _sums_that_do_not_add_up(answers: list[Answered]) -> list[str]:
    problems = []
    by_batch = defaultdict(list)
    for answer in answers:
        body = answer.body
        if body["total"] != body["stopped"] + body["skipped"] + len(body["errors"]):
            problems.append(f"I1: {body}")
        by_batch[answer.batch_id].append(body)
    problems += [
        f"batch {batch} was answered in different ways"
        for batch, bodies in by_batch.items()
        if any(body != bodies[0] for body in bodies)
    ]
    return problems


def _successes_nobody_saw(rows: list[tuple[Any, ...]], entries: list[dict[str, Any]]) -> list[str]:
    """Look for each success in the logs: the host must have said so between request and end (I5).

    A log's time is cut to milliseconds, hence the rounding.
    """
    reports = defaultdict(list)
    for entry in entries:
        if entry["reported"] in DOWN:
            reports[entry["vm_id"]].append(datetime.fromisoformat(entry["time"]))
    return [
        f"I5: stop {row[0]} succeeded, and its host never reported the VM down"
        for row in rows
        if row[2] == "succeeded"
        and not any(
            row[8].replace(microsecond=row[8].microsecond // 1000 * 1000) <= time <= row[4]
            for time in reports[row[7]]
        )
    ]


def _log(machine: Machine, offset: int) -> list[dict[str, Any]]:
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
