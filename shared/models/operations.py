"""What another control plane says of a CVM that it works on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


OPERATION_NAME_LENGTH = 100
"""Most characters of an operation's name: a word or two."""

DEFAULT_EXPIRES_IN = 3_600
"""Seconds until an operation that nobody clears ends: longer than a resize takes, and no longer
than a CVM should be out of reach after whoever worked on it has died."""

MAX_EXPIRES_IN = 86_400
"""Most seconds. Who needs a CVM for longer says so again, and thereby that it still lives."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """An operation that is open on a CVM."""

    cvm_id: str
    """The CVM's public id."""
    name: str
    user: str
    """The name of the admin that said so last."""
    started_at: datetime
    expires_at: datetime
