"""One call to libvirt that somebody waits for, until its time is over.

libvirt's calls block in C and cannot be interrupted, so that each runs in a thread of its own,
which its caller can give up. A thread that was given up ends when libvirt lets it.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from collections.abc import Callable


class GivenUpError(Exception):
    """The caller has gone; nothing is to be sent any more."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a call came to: a value, or an error."""

    value: Any = None
    error: Exception | None = None


class Call:
    """What the caller and the thread of one call know of each other."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._connecting_since: float | None = None
        self._has_connection = False
        self._given_up = False
        self._sent = False
        self._outcome: Outcome | None = None

    @property
    def has_connection(self) -> bool:
        """Whether a connection was got: from then on it is the host that is waited for."""
        return self._has_connection

    @property
    def seconds_of_connecting(self) -> float:
        """How long this call has been making a connection; 0 while it makes none."""
        since = self._connecting_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def given_up(self) -> bool:
        """Whether the caller has gone."""
        return self._given_up

    @property
    def sent(self) -> bool:
        """Whether something that changes a domain was sent, or is just being sent."""
        return self._sent

    def connecting(self, *, begins: bool) -> None:
        """Note that this call begins to make a connection, or has made it."""
        with self._changed:
            self._connecting_since = time.monotonic() if begins else None
            self._changed.notify_all()

    def got_connection(self) -> None:
        """Note that the call has a connection."""
        self._has_connection = True

    def about_to_send(self) -> None:
        """Note that what changes a domain is sent now.

        Raises
        ------
        GivenUpError
            The caller has gone, and takes it for not sent.
        """
        with self._changed:
            if self._given_up:
                raise GivenUpError
            self._sent = True

    def end(self, outcome: Outcome) -> None:
        """Tell the caller what came of it."""
        with self._changed:
            self._outcome = outcome
            self._changed.notify_all()

    def wait(self, deadline: float, connect_timeout: float) -> Outcome | None:
        """Wait for the outcome; None when it did not come in time, and the call is given up.

        Parameters
        ----------
        deadline
            `time.monotonic()`.
        connect_timeout
            Seconds that it may take to make a connection, before the deadline.
        """
        with self._changed:
            while self._outcome is None:
                limit = deadline
                if self._connecting_since is not None:
                    limit = min(limit, self._connecting_since + connect_timeout)
                left = limit - time.monotonic()
                if left <= 0:
                    self._given_up = True
                    return None
                self._changed.wait(left)
            return self._outcome


class Threads:
    """The threads of one host's calls.

    Parameters
    ----------
    name
        The host's.
    most_given_up
        Threads that were given up and have not ended; beyond it none is started.
    """

    def __init__(self, name: str, most_given_up: int) -> None:
        self._name = name
        self._most_given_up = most_given_up
        self._lock = threading.Lock()
        self._calls: set[Call] = set()

    @property
    def given_up(self) -> int:
        """How many threads hang that nobody waits for."""
        with self._lock:
            return sum(call.given_up for call in self._calls)

    @property
    def is_stuck(self) -> bool:
        """Whether so many hang that no more are started."""
        return self.given_up >= self._most_given_up

    def start(self, call: Call, work: Callable[[], Any]) -> None:
        """Do the work of a call in a thread that keeps no process from ending."""
        with self._lock:
            self._calls.add(call)

        def run() -> None:
            try:
                outcome = Outcome(value=work())
            except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets it
                outcome = Outcome(error=error.with_traceback(None))
            with self._lock:
                self._calls.discard(call)
            call.end(outcome)

        threading.Thread(target=run, name=f"libvirt-{self._name}", daemon=True).start()
