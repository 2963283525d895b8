"""Sessions of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import LargeBinary, any_, delete, func, insert, literal, select
from sqlalchemy.dialects.postgresql import ARRAY

from shared.models.callers import Caller
from shared.models.states import UserRole
from shared.models.visitors import Visitor
from shared.storage.callers import VALID, key_state
from shared.tables import ApiKey, PageSession, User, Workspace


if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta
    from uuid import UUID

    from sqlalchemy.orm import Session


def add_session(session: Session, digest: bytes, api_key_id: UUID, *, valid_for: timedelta) -> None:
    """Write a session down; it ends by the database's clock."""
    session.execute(
        insert(PageSession).values(
            digest=digest, api_key_id=api_key_id, expires_at=func.now() + valid_for
        )
    )


def find_visitor(session: Session, digest: bytes) -> Visitor | None:
    """Find who is signed in, if session and key are valid now."""
    row = session.execute(
        select(
            ApiKey.id,
            User.id,
            User.role,
            ApiKey.workspace_id,
            User.name,
            Workspace.name,
            PageSession.expires_at,
        )
        .select_from(PageSession)
        .join(ApiKey, ApiKey.id == PageSession.api_key_id)
        .join(User, User.id == ApiKey.user_id)
        .join(Workspace, Workspace.id == ApiKey.workspace_id)
        .where(
            PageSession.digest == digest,
            PageSession.expires_at > func.now(),
            key_state(User) == VALID,
        )
    ).one_or_none()
    if row is None:
        return None
    api_key_id, user_id, role, workspace_id, user, workspace, expires_at = row
    caller = Caller(
        api_key_id=api_key_id, user_id=user_id, role=UserRole(role), workspace_id=workspace_id
    )
    return Visitor(caller=caller, user=user, workspace=workspace, expires_at=expires_at)


def find_open_sessions(session: Session, digests: Sequence[bytes]) -> set[bytes]:
    """Give those of some sessions that have not ended; their keys are not looked at."""
    given = literal(digests, ARRAY(LargeBinary))
    return set(
        session.scalars(
            select(PageSession.digest).where(
                PageSession.digest == any_(given), PageSession.expires_at > func.now()
            )
        )
    )


def delete_session(session: Session, digest: bytes) -> None:
    """End a session, if there is one."""
    session.execute(delete(PageSession).where(PageSession.digest == digest))


def delete_expired(session: Session) -> None:
    """Forget sessions that have ended by themselves."""
    session.execute(delete(PageSession).where(PageSession.expires_at <= func.now()))
