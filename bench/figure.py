"""What a measurement gives: named values with their spread, beside their goals."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import typer


if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Value:
    """One number of a figure."""

    name: str
    """What was measured: `cvmstop`, `cvmstop / floor`."""
    value: float
    unit: str
    """`ms`, `stops/s`, `MiB`, or `x` for a ratio."""
    low: float | None = None
    """Least of the rounds; None when there was one."""
    high: float | None = None
    """Most of the rounds."""
    goal: str = ""
    """Such as `at most 2.0`; empty for a value without one."""
    is_met: bool | None = None
    """Whether the goal is met; None without one."""

    def line(self) -> str:
        """Say it in one line."""
        spread = "" if self.low is None else f"  ({self.low:.2f} to {self.high:.2f})"
        verdict = (
            "" if not self.goal else f"  goal: {self.goal}, {'met' if self.is_met else 'NOT met'}"
        )
        return f"  {self.name:34} {self.value:10.2f} {self.unit}{spread}{verdict}"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One of the figures of `make bench`."""

    number: int
    title: str
    how: str
    """What was done, in a sentence or two."""
    values: list[Value] = field(default_factory=list)

    def show(self) -> None:
        """Print it, a line for each value."""
        typer.echo(f"{self.number}. {self.title}: {self.how}")
        for value in self.values:
            typer.echo(value.line())

    def as_json(self) -> dict[str, Any]:
        """Shape of one element of the results' `figures`."""
        return asdict(self)


def median_of(
    name: str,
    rounds: Sequence[float],
    unit: str,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Value:
    """Make a value of the rounds' median, held to a goal if there is one."""
    return _value(
        name,
        statistics.median(rounds),
        unit,
        low=min(rounds) if len(rounds) > 1 else None,
        high=max(rounds) if len(rounds) > 1 else None,
        at_most=at_most,
        at_least=at_least,
    )


def ratio_of(
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Value:
    """Make the ratio of two sides that were measured in turns: of their medians.

    Its spread is that of the rounds' own ratios: what was measured one after the other had the
    same machine.
    """
    each = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return _value(
        name,
        statistics.median(ours) / statistics.median(theirs),
        "x",
        low=min(each) if len(each) > 1 else None,
        high=max(each) if len(each) > 1 else None,
        at_most=at_most,
        at_least=at_least,
    )


def _value(
    name: str,
    value: float,
    unit: str,
    *,
    low: float | None,
    high: float | None,
    at_most: float | None,
    at_least: float | None,
) -> Value:
    goal, is_met = "", None
    if at_most is not None:
        goal, is_met = f"at most {at_most:g}", value <= at_most
    elif at_least is not None:
        goal, is_met = f"at least {at_least:g}", value >= at_least
    return Value(name=name, value=value, unit=unit, low=low, high=high, goal=goal, is_met=is_met)
