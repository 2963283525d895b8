"""Who is asking, told from the API key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shared.api_keys import digest
from shared.exceptions import AuthenticationError
from shared.storage.callers import find_caller


if TYPE_CHECKING:
    from psycopg import Connection

    from shared.models.callers import Caller

MESSAGE = "a valid API key is required, in X-API-Key or as Authorization: Bearer"
"""The same whatever is wrong with a key, so that nothing can be learnt from it."""


def authenticate(connection: Connection[Any], api_key: str | None) -> Caller:
    """Find the caller that an API key belongs to.

    Raises
    ------
    AuthenticationError
        No key, or one that is unknown, expired or revoked.
    """
    caller = find_caller(connection, digest(api_key)) if api_key else None
    if caller is None:
        raise AuthenticationError(MESSAGE)
    return caller
