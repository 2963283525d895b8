"""Whoever follows a batch gets each change once, whatever is cut, and wherever it goes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.exceptions import InvalidPositionError
from shared.models.batch_history import (
    BatchHistory,
    Change,
    Follower,
    Position,
    Standing,
    StopRead,
)
from shared.models.states import OPEN_STATES, StopState


if TYPE_CHECKING:
    from collections.abc import Sequence

THEN = datetime(2026, 7, 1, tzinfo=UTC)

PATHS: tuple[tuple[StopState, ...], ...] = (
    (StopState.STOPPING, StopState.SUCCEEDED),
    (StopState.STOPPING, StopState.SCHEDULED, StopState.STOPPING, StopState.FAILED),
    (StopState.STOPPING, StopState.CONFIRMING, StopState.STOPPING, StopState.SUCCEEDED),
    (StopState.CANCELED,),
)
"""What becomes of stops."""


@dataclass
class Stop:
    """A stop that goes its way."""

    place: int
    path: Sequence[StopState]
    unwritten: int
    """Changes at its beginning that were made before changes were written down."""
    numbers: list[int] = field(default_factory=list)
    """Of its changes that have happened."""

    def read(self) -> StopRead:
        done = [
            Change(number, Standing(state, index + 1, None, THEN))
            for index, (number, state) in enumerate(zip(self.numbers, self.path, strict=False))
        ]
        scheduled = Standing(StopState.SCHEDULED, 0, None, THEN)
        return StopRead(
            stop_task_id=UUID(int=self.place),
            cvm_id=f"cvm_{self.place}",
            host="node",
            accepted_at=THEN,
            now=done[-1].to if done else scheduled,
            changes=done[self.unwritten :],
        )

    @property
    def is_over(self) -> bool:
        return len(self.numbers) == len(self.path)


@dataclass
class Reader:
    """Follows a batch on one process after the other."""

    follower: Follower
    got: list[tuple[int, StopState]] = field(default_factory=list)
    position: str = ""

    def read(self, history: BatchHistory, most: int) -> None:
        for number, position in self.follower.take(most):
            step = history.steps[number]
            self.got.append((step.place, step.to.state))
            self.position = position


@settings(max_examples=400)
@given(data=st.data())
def test_each_change_comes_once_and_in_its_order(data: st.DataObject) -> None:
    """Any interleaving of changes, of readings by two processes, and of cuts."""
    paths = data.draw(st.lists(st.sampled_from(PATHS), min_size=1, max_size=4))
    stops = [Stop(place, path, 0) for place, path in enumerate(paths)]
    histories = [BatchHistory(), BatchHistory()]
    for history in histories:
        history.take([stop.read() for stop in stops])
    on = 0
    reader = Reader(Follower(histories[on]))
    while not all(stop.is_over for stop in stops):
        action = data.draw(st.sampled_from(["change", "read", "take", "cut"]))
        if action == "change":
            stop = data.draw(st.sampled_from([stop for stop in stops if not stop.is_over]))
            # They are given when a change is made, and seen when it is committed.
            last = stop.numbers[-1] if stop.numbers else 0
            stop.numbers.append(last + data.draw(st.integers(1, 9)))
        elif action == "read":
            data.draw(st.sampled_from(histories)).take([stop.read() for stop in stops])
        elif action == "take":
            reader.read(histories[on], data.draw(st.integers(1, 3)))
        else:
            on = data.draw(st.integers(0, 1))
            position = (
                Position.parse(reader.position, stops=len(stops)) if reader.position else None
            )
            reader.follower = Follower(histories[on], position)
    for history in histories:
        history.take([stop.read() for stop in stops])
        assert history.is_over
    reader.read(histories[on], 1000)
    for stop in stops:
        assert [state for place, state in reader.got if place == stop.place] == [
            StopState.SCHEDULED,
            *stop.path,
        ]
    end = reader.follower.at_end
    assert end is not None
    assert Position.parse(str(end), stops=len(stops)) == end
    # Who comes back behind the last event gets the end, and nothing before it, anywhere.
    for history in histories:
        again = Follower(history, Position.parse(reader.position, stops=len(stops)))
        assert again.take(1000) == []
        assert again.at_end == end


def test_a_process_that_read_earlier_knows_other_changes_first() -> None:
    """Of two changes the one that was made first was committed last; a reader goes to and fro."""
    first, second = Stop(0, PATHS[0], 0), Stop(1, PATHS[0], 0)
    early, late = BatchHistory(), BatchHistory()
    second.numbers = [2]
    early.take([first.read(), second.read()])
    first.numbers = [1]
    late.take([first.read(), second.read()])
    position, got = None, []
    for history in (late, early, late, early):
        follower = Follower(history, position)
        for number, text in follower.take(3 if position is None else 100):
            got.append((history.steps[number].place, history.steps[number].to.state))
            position = Position.parse(text, stops=2)
    assert got == [
        (0, StopState.SCHEDULED),
        (1, StopState.SCHEDULED),
        (0, StopState.STOPPING),
        (1, StopState.STOPPING),
    ]


@given(
    unwritten=st.integers(0, 4),
    cuts=st.lists(st.integers(0, 4), max_size=3).map(sorted),
    path=st.sampled_from(PATHS),
)
def test_of_what_was_not_written_the_row_tells(
    unwritten: int, cuts: list[int], path: tuple[StopState, ...]
) -> None:
    """A reader that comes by at any moments since: its last event is where the stop stands."""
    stop = Stop(0, path, unwritten)
    position: Position | None = None
    got: list[StopState] = []
    for moment in [*cuts, len(path)]:
        happened = min(max(moment, unwritten), len(path))
        stop.numbers = list(range(1, happened + 1))
        history = BatchHistory()
        history.take([stop.read()])
        follower = Follower(history, position)
        for number, text in follower.take(100):
            got.append(history.steps[number].to.state)
            position = Position.parse(text, stops=1)
        assert got[-1] == stop.read().now.state
    assert got[0] == StopState.SCHEDULED
    # Each that was written came, and once.
    written = list(path[unwritten:])
    assert got[len(got) - len(written) :] == written


def test_a_batch_without_stops_is_over_at_once() -> None:
    history = BatchHistory()
    assert Follower(history).at_end is None
    history.take([])
    assert Follower(history).at_end == Position.parse("end", stops=0)


def test_nothing_is_over_while_a_stop_is_open() -> None:
    stop = Stop(0, PATHS[0], 0)
    for count in range(3):
        stop.numbers = list(range(1, count + 1))
        history = BatchHistory()
        history.take([stop.read()])
        assert history.is_over == (stop.read().now.state not in OPEN_STATES)
        assert (Follower(history).at_end is None) == bool(history.steps)


@given(st.lists(st.integers(0, 10**8), max_size=50), st.booleans())
def test_a_positions_text_and_back(marks: list[int], has_ended: bool) -> None:  # noqa: FBT001 - as Hypothesis calls it
    position = Position(marks=tuple(marks), has_ended=has_ended)
    assert Position.parse(str(position), stops=len(marks)) == position


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "2", "2.2.2", "2.2.", "2.2end", "02.2", "-2.2", "2.٢", "2.2.end\n", "x"),
        *("2.2" + "0" * 9, "2.2" + "0" * 2000),
    ],
)
def test_another_text_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidPositionError, match="Last-Event-ID"):
        Position.parse(wrong, stops=2)
