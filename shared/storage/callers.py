"""Finding out who holds an API key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import exists, func, or_, select

from shared.models.callers import Caller
from shared.models.states import UserRole
from shared.tables import ApiKey, Membership, User


if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def find_caller(session: Session, digest: bytes) -> Caller | None:
    """Find the holder of the key with this digest, if the key is valid now.

    Valid: neither key nor user revoked, not expired by the database's clock, and its holder an
    admin or still a member of the key's workspace.
    """
    is_member = exists().where(
        Membership.user_id == User.id, Membership.workspace_id == ApiKey.workspace_id
    )
    row = session.execute(
        select(ApiKey.id, ApiKey.workspace_id, User.id, User.name, User.role)
        .join(User, User.id == ApiKey.user_id)
        .where(
            ApiKey.digest == digest,
            ApiKey.revoked_at.is_(None),
            User.revoked_at.is_(None),
            or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()),
            or_(User.role == UserRole.ADMIN, is_member),
        )
    ).one_or_none()
    if row is None:
        return None
    api_key_id, workspace_id, user_id, name, role = row
    return Caller(
        api_key_id=api_key_id,
        user_id=user_id,
        user_name=name,
        role=UserRole(role),
        workspace_id=workspace_id,
    )
