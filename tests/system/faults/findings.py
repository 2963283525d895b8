"""What can be found wrong in a run, each by a function of what was seen."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from tests.system.faults.clients import Answered

DOWN = {"stopped", "absent"}
"""What a host must have reported for a stop to have succeeded (I5)."""


LOG_PRECISION = timedelta(milliseconds=1)
"""A host's log cuts times to milliseconds."""

STOPS = """
    SELECT stop_tasks.id::text, batch_id::text, hash_id, stop_tasks.vm_uuid, cvms.vm_uuid,
           accepted_at, finished_at, state, attempt, error_code, error_message
    FROM stop_tasks JOIN cvms ON cvms.id = cvm_id WHERE accepted_at >= %(since)s
"""

TURNS = """
    SELECT vm_uuid, started_at, coalesce(stop_attempts.finished_at, clock_timestamp()),
           outcome, state
    FROM stop_attempts JOIN stop_tasks ON id = stop_task_id
    WHERE accepted_at >= %(since)s ORDER BY started_at
"""


@dataclass(frozen=True)
class Stop:
    """A stop's row, with its CVM's."""

    id: str
    batch_id: str
    cvm_id: str
    vm_uuid: str
    cvm_vm_uuid: str
    accepted_at: datetime
    finished_at: datetime
    """None while it is open, which no judgement here looks at."""
    state: str
    attempt: int
    error_code: str | None
    error_message: str | None

    @property
    def ending(self) -> tuple[Any, ...]:
        """What may not change any more, as `Observer.ended` has it."""
        told = (self.error_code, self.error_message)
        return (self.state, self.attempt, self.finished_at, *told)


@dataclass(frozen=True)
class Turn:
    """An attempt's row, with its stop's."""

    vm_uuid: str
    began: datetime
    ended: datetime
    """Now, while it is under way."""
    outcome: str
    state: str


def wrong_answers(answers: list[Answered]) -> list[str]:
    """Find answers that do not add up (I1), and repeated ones that differ."""
    problems = []
    first: dict[str, dict[str, Any]] = {}
    for answer in answers:
        body = answer.body
        if body["total"] != body["stopped"] + body["skipped"] + len(body["errors"]):
            problems.append(f"I1: {body}")
        if first.setdefault(answer.batch_id, body) != body:
            problems.append(f"batch {answer.batch_id} was answered in different ways")
    return problems


def wrong_rows(stops: list[Stop], by_batch: dict[str, Answered]) -> list[str]:
    """Find stops that no answer speaks of, or that nobody asked for."""
    problems = [
        f"{count} stops of batch {batch}, which was answered otherwise or not at all"
        for batch, count in Counter(stop.batch_id for stop in stops).items()
        if batch not in by_batch or count > by_batch[batch].body["stopped"]
    ]
    problems += [
        f"stop {stop.id} of {stop.cvm_id}, which its batch did not name"
        for stop in stops
        if stop.batch_id in by_batch and stop.cvm_id not in by_batch[stop.batch_id].cvm_ids
    ]
    problems += [
        f"stop {stop.id} means another VM than {stop.cvm_id}'s"
        for stop in stops
        if stop.vm_uuid != stop.cvm_vm_uuid
    ]
    return problems


def changed_since(stops: list[Stop], ended: dict[str, tuple[Any, ...]]) -> list[str]:
    """Find stops that have changed after they had ended (I4)."""
    return [
        f"I4: stop {stop.id} ended as {ended[stop.id][0]} and has changed since"
        for stop in stops
        if stop.id in ended and ended[stop.id] != stop.ending
    ]


def successes_nobody_saw(stops: list[Stop], entries: list[dict[str, Any]]) -> list[str]:
    """Find successes whose host did not say so last, between the request and the end (I5)."""
    reports: dict[str, list[tuple[datetime, str]]] = defaultdict(list)
    for entry in entries:
        if entry["reported"] is not None:
            reports[entry["vm_id"]].append((_time(entry), entry["reported"]))
    problems = []
    for stop in stops:
        said = [
            report
            for time, report in sorted(reports[stop.vm_uuid])
            if stop.accepted_at - LOG_PRECISION <= time <= stop.finished_at
        ]
        if stop.state == "succeeded" and (not said or said[-1] not in DOWN):
            problems.append(f"I5: stop {stop.id} succeeded, and its host said {said[-1:]} last")
    return problems


def force_stops_outside(turns: list[Turn], entries: list[dict[str, Any]]) -> int:
    """Count force stops beyond one in each turn: also those between turns, or after the end."""
    times: dict[str, list[datetime]] = defaultdict(list)
    for entry in entries:
        if entry["method"] == "StopVm":
            times[entry["vm_id"]].append(_time(entry))
    for turn in turns:
        within = [
            time for time in times[turn.vm_uuid] if turn.began - LOG_PRECISION <= time <= turn.ended
        ]
        if within:
            times[turn.vm_uuid].remove(within[0])
    return sum(len(left) for left in times.values())


def _time(entry: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(entry["time"])
