"""What can go wrong with a host.

HostError
├── HostUnreachableError    no connection; nothing was sent                   unreachable
├── OutcomeUnknownError     sent, but no whole answer: the state must be read again  unknown
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
    """No connection could be made (or TLS not agreed on), so nothing was sent."""

    fate = Fate.UNREACHABLE


class OutcomeUnknownError(HostError):
    """The request was sent (at least in part) and no whole answer came."""

    fate = Fate.UNKNOWN


class HostRefusedError(HostError):
    """The host answered with an error that may pass."""

    fate = Fate.TRANSIENT


class FinalHostError(HostError):
    """The host's answer, or our own record of the host, rules the request out for good."""

    fate = Fate.FINAL
