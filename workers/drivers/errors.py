"""What can go wrong with a host.

HostError
├── HostUnreachableError    nothing reached the host                          unreachable
├── HostSilentError         a question was sent, but no whole answer came     unreachable
├── OutcomeUnknownError     sent, but no whole answer: the state must be read again  unknown
│   └── StaleConnectionError    the same, on a connection kept from before    unknown
├── OutOfTimeError          the caller's time was over before anything was sent   transient
├── HostRefusedError        an answer that says no, and may say yes later     transient
└── FinalHostError          an answer that will not change by asking again    final
"""

from __future__ import annotations

from typing import ClassVar

from shared.models.errors import ErrorCode, Fate
from shared.models.turns import Failure


class HostError(Exception):
    """Base of all of them.

    Parameters
    ----------
    code
        For programs and filters.
    message
        For people: what was tried and what came back. Never holds a credential.
    """

    fate: ClassVar[Fate]

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def as_failure(self) -> Failure:
        """Give what is written down of it."""
        return Failure(code=self.code, fate=self.fate, message=self.message)


class HostUnreachableError(HostError):
    """Nothing reached the host: no connection, TLS not agreed on, or a proxy in front says so."""

    fate = Fate.UNREACHABLE


class HostSilentError(HostError):
    """A question was sent and no whole answer came.

    A question changes nothing on the host, so no outcome is in doubt: all that is learnt is that
    the host does not answer, which its breaker must count.
    """

    fate = Fate.UNREACHABLE


class OutcomeUnknownError(HostError):
    """The request was sent (at least in part) and no whole answer came."""

    fate = Fate.UNKNOWN


class StaleConnectionError(OutcomeUnknownError):
    """A connection kept from an earlier request broke before any of the answer came.

    Most often the host had closed it while idle and saw nothing of the request; that cannot be
    known, so only a question may be asked again.
    """


class OutOfTimeError(HostError):
    """The caller's time was over before anything was sent.

    Transient: the turn lets go, and the next one, with time of its own, begins by reading the
    state. Not `unreachable`, because the host was not asked and its breaker must not count it;
    not `unknown`, because a force stop that was never sent must not be taken for one that may
    have been. It does count as one of the stop's own failures, so that a host on which every
    turn runs out of time does not keep a stop going until its deadline.
    """

    fate = Fate.TRANSIENT


class HostRefusedError(HostError):
    """The host answered with an error that may pass."""

    fate = Fate.TRANSIENT


class FinalHostError(HostError):
    """The host's answer, or our own record of the host, rules the request out for good."""

    fate = Fate.FINAL
