from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import TYPE_CHECKING

from sqlalchemy import func

from shared.database import driver_of
from shared.exceptions import AuthenticationError
from shared.services.authentication import authenticate
from shared.storage.access import list_keys, list_users
from tests.support.seeds import make_key, make_user, make_workspace


if TYPE_CHECKING:
    from sqlalchemy.orm import Session

HOUR = timedelta(hours=1)


def _expected(
    *, admin: bool, member: bool, user_revoked: bool, revoked: bool, expired: bool
) -> str:
    if revoked or user_revoked:
        return "revoked"
    if expired:
        return "expired"
    return "valid" if admin or member else "not_a_member"


def _lets_in(session: Session, key: str) -> bool:
    try:
        authenticate(driver_of(session), key)
    except AuthenticationError:
        return False
    return True


def test_keys_are_listed_as_what_they_are(session: Session) -> None:
    """For every kind of key: the state in the list, and whether the key opens the door."""
    workspace, other = make_workspace(session), make_workspace(session)
    keys = {}
    for admin, member, user_revoked in product((False, True), repeat=3):
        user = make_user(session, workspace if member else other, admin=admin)
        if user_revoked:
            user.revoked_at = func.now()
        for revoked, expires_in in product((False, True), (None, HOUR, -HOUR)):
            row, plain = make_key(session, user, workspace, expires_in=expires_in, revoked=revoked)
            state = _expected(
                admin=admin,
                member=member,
                user_revoked=user_revoked,
                revoked=revoked,
                expired=expires_in == -HOUR,
            )
            keys[row.id] = (plain, state)
    listed = {row["id"]: row["state"] for row in list_keys(session)}
    assert listed == {key_id: state for key_id, (_, state) in keys.items()}
    assert set(listed.values()) == {"valid", "revoked", "expired", "not_a_member"}
    for plain, state in keys.values():
        assert _lets_in(session, plain) == (state == "valid")
    counted = sum(row["valid_keys"] for row in list_users(session))
    assert counted == list(listed.values()).count("valid")
