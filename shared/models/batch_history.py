"""Everything that happened to a batch's stops, in order, and how far a reader of it has come.

A reader's position counts, for each stop, how many of its changes were read. That is exact: the
changes of one stop never overlap, since each holds the stop's row until it is committed, so that
whoever sees one of them sees all those before it (decision 0022). It holds on any process, and its
size follows from the batch's.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from shared.exceptions import InvalidPositionError
from shared.models.states import OPEN_STATES, StopState


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LONGEST_POSITION = 1024
"""Characters that are read of a position. One of a batch of 50 takes some 100 to 250."""

BEHIND_ALL = 2**63
"""Greater than any change's number."""

_POSITION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})*)?(\.?end)?")

POSITION_WANTED = (
    "Last-Event-ID: take it as it is from the last event's id, or leave it out to begin anew"
)


class Standing(NamedTuple):
    """Where a stop stood from some time on."""

    state: StopState
    attempt: int
    error_code: str | None
    at: datetime


class Change(NamedTuple):
    """One change of a stop's state that was written down."""

    number: int
    """Orders those of one stop; those of several stops roughly."""
    to: Standing


@dataclass(frozen=True, kw_only=True, slots=True)
class StopRead:
    """One stop, as one statement read it with all of its changes."""

    stop_task_id: UUID
    cvm_id: str
    host: str
    accepted_at: datetime
    now: Standing
    """What its row says."""
    changes: Sequence[Change]
    """In their order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One thing that happened to one stop."""

    place: int
    """The stop's place among the batch's, which are in the order of their ids."""
    mark: int
    """Grows from step to step of a stop: twice its number, one more for one that is made up."""
    stop_task_id: UUID
    cvm_id: str
    host: str
    to: Standing
    position: str
    """Of a reader who has read the history from its beginning up to this step."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a reader has come: for each stop, the mark of the last step that it was given."""

    marks: tuple[int, ...]
    has_ended: bool = False
    """Whether it was told that every stop has ended, too."""

    @classmethod
    def parse(cls, text: str, *, stops: int) -> Position:
        """Read what `str` gave for a batch of so many stops.

        Raises
        ------
        InvalidPositionError
            It is something else.
        """
        match = _POSITION.fullmatch(text) if len(text) <= LONGEST_POSITION else None
        if match is None:
            raise InvalidPositionError(POSITION_WANTED)
        numbers = text.removesuffix(match[1] or "")
        marks = tuple(map(int, numbers.split("."))) if numbers else ()
        position = cls(marks=marks, has_ended=bool(match[1]))
        if len(marks) != stops or str(position) != text:
            raise InvalidPositionError(POSITION_WANTED)
        return position

    def __str__(self) -> str:
        """Write it as `parse` reads it."""
        return ".".join([*map(str, self.marks), *(["end"] if self.has_ended else [])])


class BatchHistory:
    """What one process has read of a batch: steps are added at the end, and stay as they are."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.counts: dict[StopState, int] = {}
        """Stops by state, zeros included, as last read."""
        self.changes = 0
        """Written changes among the steps."""
        self._marks: list[int] = []

    @property
    def stops(self) -> int:
        """How many stops the batch has."""
        return len(self._marks)

    @property
    def is_over(self) -> bool:
        """Whether each stop has ended, so that there will be no further step."""
        return bool(self.counts) and not any(self.counts[state] for state in OPEN_STATES)

    def take(self, stops: Sequence[StopRead]) -> None:
        """Add what is new in a reading of all the batch's stops, in the order of their ids."""
        if not self.counts:
            self._marks = [0] * len(stops)
        new = [found for place, stop in enumerate(stops) for found in self._new(place, stop)]
        for _, place, mark, to in sorted(new, key=lambda found: found[:3]):
            self._marks[place] = mark
            stop = stops[place]
            self.steps.append(
                Step(
                    place=place,
                    mark=mark,
                    stop_task_id=stop.stop_task_id,
                    cvm_id=stop.cvm_id,
                    host=stop.host,
                    to=to,
                    position=".".join(map(str, self._marks)),
                )
            )
        self.changes = sum(len(stop.changes) for stop in stops)
        states = Counter(stop.now.state for stop in stops)
        self.counts = {state: states[state] for state in StopState}

    def _new(self, place: int, stop: StopRead) -> Iterator[tuple[int, int, int, Standing]]:
        """Give what is not among the steps: order, place, mark, and what it came to."""
        accepted = Standing(StopState.SCHEDULED, 0, None, stop.accepted_at)
        known = [(0, accepted), *stop.changes]
        for number, (order, to) in enumerate(known, 1):
            if 2 * number > self._marks[place]:
                yield order, place, 2 * number, to
        # Of stops from before changes were written there is only what their rows say.
        made_up = 2 * len(known) + 1
        if stop.now.state != known[-1][1].state and made_up > self._marks[place]:
            yield BEHIND_ALL, place, made_up, stop.now


class Follower:
    """One reader of a history.

    Parameters
    ----------
    history
        Read as it grows.
    position
        Where it goes on, on this process or another; None for the beginning.
    """

    def __init__(self, history: BatchHistory, position: Position | None = None) -> None:
        self._history = history
        self._next = 0
        marks = () if position is None else position.marks
        self._ahead = {place: mark for place, mark in enumerate(marks) if mark}
        """Steps that it was given before, by place: as far as the history has not got there."""

    def take(self, most: int) -> list[tuple[int, str]]:
        """Give further steps, by their numbers in the history, and the reader's position at each.

        Empty when there are none now.
        """
        found: list[tuple[int, str]] = []
        while self._next < len(self._history.steps) and len(found) < most:
            step = self._history.steps[self._next]
            ahead = self._ahead.get(step.place, 0)
            if step.mark >= ahead:
                self._ahead.pop(step.place, None)
            if step.mark > ahead:
                found.append((self._next, self._merged(step.position)))
            self._next += 1
        return found

    @property
    def at_end(self) -> Position | None:
        """Its position once it was given everything that will ever be; None before."""
        if not self._history.is_over or self._next < len(self._history.steps):
            return None
        steps = self._history.steps
        text = self._merged(steps[-1].position) if steps else ""
        marks = tuple(map(int, text.split("."))) if text else ()
        return Position(marks=marks, has_ended=True)

    def _merged(self, position: str) -> str:
        if not self._ahead:
            return position
        marks = position.split(".")
        for place, mark in self._ahead.items():
            marks[place] = str(mark)
        return ".".join(marks)
