"""What an operator sees at a glance: hosts, open stops, how many end and how soon, failures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta
    from uuid import UUID

    from shared.models.errors import ErrorCode
    from shared.models.states import StopState

MAX_HOURS = 24
"""Hours that a chart may go back: a day has 1,440 minutes, more than a screen is wide."""


@dataclass(frozen=True, kw_only=True)
class HostHealth:
    """How a host stands, as far as the caller may know.

    A member is told of no other's stops and of no address: not `address`, and neither of the
    errors, which name it; `stopping` and `waiting` are of the own workspace.
    """

    name: str
    driver: str
    address: str | None
    """None for a member."""
    disabled_at: datetime | None
    """Since when no stop is accepted on it; None while they are."""
    breaker: str
    """`closed`, `open`, or `half_open` while one stop at a time is let through to try."""
    is_reachable: bool | None
    """Whether it answered last, a stop or a sync; None if that is not known of it."""
    unreachable_since: datetime | None
    """Since when it has not answered, unless it does."""
    last_error: str | None
    """What the last stop or sync that did not reach it met; None for a member."""
    cap: int
    """Stops that may run on it at once."""
    stopping: int
    """Stops that run on it."""
    waiting: int
    """Stops that wait for their turn, or to be confirmed."""
    synced_at: datetime | None
    """When it was asked for the newest list of VMs that was written down; None for never."""
    is_sync_failing: bool
    """Whether nothing was written down the last time."""
    sync_error: str | None
    """Why; None for a member."""


@dataclass(frozen=True, kw_only=True)
class OpenStops:
    """The stops that have not ended."""

    counts: Mapping[StopState, int]
    """By each open state, zeros included."""
    oldest_accepted_at: datetime | None
    """When the one was accepted that is open for longest; None if none is."""
    oldest_due_seconds: float
    """Seconds since the waiting stop was due that is due for longest; 0 if none is."""

    @property
    def total(self) -> int:
        """How many."""
        return sum(self.counts.values())


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How many stops ended in one minute."""

    begins_at: datetime
    succeeded: int
    failed: int
    canceled: int


@dataclass(frozen=True, kw_only=True)
class PaceChart:
    """How many stops ended, minute by minute, up to this one."""

    minutes: tuple[Pace, ...]
    """The oldest first, those without any included."""
    complete_since: datetime
    """Of minutes before that, some stops may be missing: there were too many to read."""


@dataclass(frozen=True, kw_only=True)
class TimeToStopped:
    """How long stops took that succeeded within some minutes."""

    begins_at: datetime
    count: int
    p50: float | None
    """Seconds from accepted to seen down, which half of them took at most; None without any."""
    p95: float | None
    """Seconds that 95 of 100 took at most."""
    longest: float | None
    """Seconds."""


@dataclass(frozen=True, kw_only=True)
class TimesChart:
    """How long stops took, some minutes after the others, up to now."""

    buckets: tuple[TimeToStopped, ...]
    """The oldest first, those without any included."""
    each: timedelta
    """How long one bucket is."""
    complete_since: datetime
    """Of buckets that begin before that, some stops may be missing: there were too many to read."""


@dataclass(frozen=True, kw_only=True)
class FailureGroup:
    """Stops that failed on one host for one reason."""

    error_code: ErrorCode
    host: str
    count: int
    oldest_at: datetime
    """When the first of them was accepted."""
    newest_at: datetime
    """When the last of them was accepted."""
    sample_id: UUID
    """The stop task that was accepted last."""
    sample_message: str | None
    """Its error."""


@dataclass(frozen=True, kw_only=True)
class FailureGroups:
    """Failures by reason and host."""

    groups: tuple[FailureGroup, ...]
    """The biggest first."""
    counted: int
    """Failures that were read for it: those of the groups, and of groups that are left out."""
    left_out: int
    """Groups beyond those, each no bigger."""
    is_cut_off: bool
    """Whether there are more failures, older ones, which were not read."""
