"""What a simulated host was asked: in memory for the control endpoint, in a file for judges."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEPT_ENTRIES = 200_000
"""Newest requests that are kept in memory; the file keeps all."""


@dataclass(slots=True, kw_only=True)
class Entry:
    """One pRPC request."""

    number: int
    """Counts requests in the order in which they came."""
    at: float
    """Seconds from the host's start until the request was there."""
    time: str
    """The same by the wall clock."""
    method: str
    vm_id: str | None
    credentials_ok: bool
    status: int | None = None
    """HTTP status that was (or is being) answered; null while undecided, and for none at all."""
    error: str | None = None
    """Text of a 400."""
    fault: str | None = None
    """Kind of the fault that struck; `dead` for a dead host's silence."""
    killed: bool = False
    """Whether it killed a process."""
    reported: str | None = None
    """The VM's status that GetInfo put into the answer, or `absent`; null for other requests."""
    decided: bool = field(default=False, repr=False)

    def as_json(self) -> dict[str, object]:
        """Give the entry as it is in the log."""
        return {
            "number": self.number,
            "at": round(self.at, 6),
            "time": self.time,
            "method": self.method,
            "vm_id": self.vm_id,
            "status": self.status,
            "error": self.error,
            "fault": self.fault,
            "credentials_ok": self.credentials_ok,
            "killed": self.killed,
            "reported": self.reported,
        }


class Journal:
    """The log of a host's requests.

    Parameters
    ----------
    clock
        Seconds of a monotonic clock.
    file
        Text file that gets one JSON line for each request, flushed, the moment its fate is
        decided; so its order is that in which things were done.
    """

    def __init__(self, clock: Callable[[], float], file: IO[str] | None = None) -> None:
        self._clock = clock
        self._file = file
        self._begin = clock()
        self._entries: deque[Entry] = deque(maxlen=KEPT_ENTRIES)
        self.count = 0

    def open(self, method: str, vm_id: str | None, *, credentials_ok: bool) -> Entry:
        """Write down a request that has just come."""
        entry = Entry(
            number=self.count,
            at=self.uptime,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            method=method,
            vm_id=vm_id,
            credentials_ok=credentials_ok,
        )
        self.count += 1
        self._entries.append(entry)
        return entry

    def decide(self, entry: Entry) -> None:
        """Write a request's line to the file, once its fate is known; only once."""
        if entry.decided:
            return
        entry.decided = True
        if self._file is not None:
            self._file.write(json.dumps(entry.as_json()) + "\n")
            self._file.flush()

    @property
    def uptime(self) -> float:
        """Seconds since the host's start."""
        return self._clock() - self._begin

    def clear(self) -> None:
        """Forget the entries in memory; the file keeps them."""
        self._entries.clear()

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)
