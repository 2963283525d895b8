"""Signing in at the page with an API key, and out.

A session is a random token in a cookie, of which the database has the digest: as with the keys
themselves, nobody signs in with what is read there. See decision 0024.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from shared.api_keys import RANDOM_BYTES, digest
from shared.database import driver_of
from shared.exceptions import AuthenticationError
from shared.models.visitors import SIGNED_IN_FOR
from shared.services.authentication import authenticate
from shared.storage import page_sessions as storage


if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from shared.models.visitors import Visitor

NOT_SIGNED_IN = "sign in with a valid API key"
"""Whatever ended a session, or if there never was one."""


def sign_in(session: Session, api_key: str) -> str:
    """Begin a session; gives its token, which is kept nowhere.

    Raises
    ------
    AuthenticationError
        The key is unknown, expired or revoked.
    """
    caller = authenticate(driver_of(session), api_key)
    # Each sign-in tidies up, so that there are about as many rows as people.
    storage.delete_expired(session)
    token = secrets.token_urlsafe(RANDOM_BYTES)
    storage.add_session(session, digest(token), caller.api_key_id, valid_for=SIGNED_IN_FOR)
    return token


def recognise(session: Session, token: str | None) -> Visitor:
    """Find who is signed in.

    Raises
    ------
    AuthenticationError
        Nobody: no token, its session has ended, or its key is not valid any more.
    """
    visitor = storage.find_visitor(session, digest(token)) if token else None
    if visitor is None:
        raise AuthenticationError(NOT_SIGNED_IN)
    return visitor


def sign_out(session: Session, token: str) -> None:
    """End a session; doing it again changes nothing."""
    storage.delete_session(session, digest(token))
