"""How templates write things down: filters of Jinja."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from collections.abc import Callable


def shown(text: object) -> str:
    """Show a text from elsewhere: what has no shape of its own is written out.

    Control characters, and those that turn the direction of what stands around them, must not make
    a name look like another.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def iso(time: datetime) -> str:
    """Write an instant for programs (RFC 3339)."""
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def day(time: datetime) -> str:
    """Write the day of an instant, in UTC."""
    return f"{time.astimezone(UTC):%Y-%m-%d}"


def clock(time: datetime) -> str:
    """Write the time of the day of an instant, in UTC."""
    return f"{time.astimezone(UTC):%H:%M:%S}"


def span(seconds: float) -> str:
    """Write a duration in the units that matter: `850 ms`, `12.3 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, name, smaller, short in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name}" + (f" {rest} {short}" if rest else "")
    return f"{whole} s"


def counted(number: int, one: str, more: str | None = None) -> str:
    """Write a number with what is counted: `1 stop`, `1,200 stops`."""
    return f"{number:,} {one if number == 1 else more or one + 's'}"


def for_input(time: datetime | None) -> str | None:
    """Write an instant as a field for a date and a time wants it."""
    return None if time is None else f"{time.astimezone(UTC):%Y-%m-%dT%H:%M}"


FILTERS: dict[str, Callable[..., Any]] = {
    "shown": shown,
    "iso": iso,
    "day": day,
    "clock": clock,
    "span": span,
    "counted": counted,
    "for_input": for_input,
}
"""By the names that templates call them by."""
