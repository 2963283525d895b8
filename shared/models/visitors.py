"""Who is signed in at the page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.models.callers import Caller


SIGNED_IN_FOR = timedelta(hours=12)
"""How long a session lasts, whatever is done meanwhile: one shift."""


@dataclass(frozen=True, kw_only=True)
class Visitor:
    """Somebody who is signed in, for the length of one request."""

    caller: Caller
    """What the API key that was signed in with may do."""
    user: str
    workspace: str
    """The key's workspace."""
    expires_at: datetime
    """When the session ends, if nothing ends it before."""
