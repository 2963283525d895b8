"""Small charts: from what happened in each while to rectangles. Templates draw them as SVG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from shared.models.states import StopState


if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from shared.models.overview import Pace, TimesChart, TimeToStopped

HEIGHT = 100
"""Height of every chart, in its own units; it is drawn as large as there is room."""

MOST_BARS = 360
"""Bars that can be told apart on a screen: six hours of minutes. More are put together."""

Row = TypeVar("Row")


@dataclass(frozen=True, kw_only=True)
class Rectangle:
    """A part of a bar; from the top, as SVG counts."""

    kind: str
    x: float
    y: float
    height: float


@dataclass(frozen=True, kw_only=True)
class Chart(Generic[Row]):
    """What is drawn, and what is said instead."""

    rectangles: list[Rectangle]
    bars: int
    """Width: each bar is 1 wide."""
    highest: float
    """What the full height stands for; 0 when there is nothing to draw."""
    marks: tuple[datetime, datetime, datetime] | None
    """Times at the left edge, in the middle and at the right one."""
    rows: list[Row]
    """What a table says: whiles in which there was something, the newest first."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How many stops ended in a while of one or more minutes."""

    begins_at: datetime
    counts: dict[StopState, int]


ENDS = (StopState.SUCCEEDED, StopState.FAILED, StopState.CANCELED)
"""From the bottom up."""


def pace_chart(minutes: Sequence[Pace]) -> tuple[Chart[Ended], int]:
    """Draw how many stops ended; gives also how many minutes one bar is."""
    together = -(-len(minutes) // MOST_BARS) or 1
    whiles = [
        _put_together(minutes[start : start + together])
        for start in range(0, len(minutes), together)
    ]
    highest = max((sum(each.counts.values()) for each in whiles), default=0)
    rectangles = []
    for x, each in enumerate(whiles):
        top = float(HEIGHT)
        for state in ENDS:
            if number := each.counts[state]:
                height = number / highest * HEIGHT
                top -= height
                rectangles.append(_rectangle(state, x, top, height))
    rows = [each for each in reversed(whiles) if any(each.counts.values())]
    return _chart(rectangles, whiles, highest, rows, lambda each: each.begins_at), together


def times_chart(times: TimesChart) -> Chart[TimeToStopped]:
    """Draw how long stops took: the median, in front of what 95 % took at most."""
    highest = max((each.p95 or 0.0 for each in times.buckets), default=0.0)
    rectangles = []
    for x, each in enumerate(times.buckets):
        if each.p50 is None or each.p95 is None or not highest:
            continue
        for kind, seconds in (("most", each.p95), ("half", each.p50)):
            height = seconds / highest * HEIGHT
            rectangles.append(_rectangle(kind, x, HEIGHT - height, height))
    rows = [each for each in reversed(times.buckets) if each.count]
    return _chart(rectangles, times.buckets, highest, rows, lambda each: each.begins_at)


def _put_together(minutes: Sequence[Pace]) -> Ended:
    return Ended(
        begins_at=minutes[0].begins_at,
        counts={
            StopState.SUCCEEDED: sum(each.succeeded for each in minutes),
            StopState.FAILED: sum(each.failed for each in minutes),
            StopState.CANCELED: sum(each.canceled for each in minutes),
        },
    )


def _rectangle(kind: str, x: float, y: float, height: float) -> Rectangle:
    return Rectangle(kind=kind, x=x, y=round(y, 2), height=round(height, 2))


def _chart(
    rectangles: list[Rectangle],
    whiles: Sequence[Row],
    highest: float,
    rows: list[Row],
    begin: Callable[[Row], datetime],
) -> Chart[Row]:
    marks = None
    if len(whiles) > 1:
        first, second = begin(whiles[0]), begin(whiles[1])
        length = (second - first) * len(whiles)
        marks = (first, first + length / 2, first + length)
    return Chart(
        rectangles=rectangles, bars=len(whiles) or 1, highest=highest, marks=marks, rows=rows
    )
