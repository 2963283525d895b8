"""Finding out who holds an API key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import any_, bindparam, case, exists, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from shared.models.callers import Caller
from shared.models.states import UserRole
from shared.storage.compiled import CompiledStatement
from shared.tables import ApiKey, Membership, User


if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from psycopg import Connection
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

VALID = "valid"
"""State of a key that lets its holder in."""


def key_state(holder: type[User]) -> ColumnElement[str]:
    """Say whether a key is `VALID`, or why not: `revoked`, `expired` or `not_a_member`.

    Valid: neither key nor user revoked, not expired by the database's clock, and its holder an
    admin or still a member of the key's workspace.

    Parameters
    ----------
    holder
        What the query around it calls the key's user: `User`, or an alias of it.
    """
    member = exists().where(
        Membership.user_id == holder.id, Membership.workspace_id == ApiKey.workspace_id
    )
    return case(
        (ApiKey.revoked_at.is_not(None) | holder.revoked_at.is_not(None), "revoked"),
        (ApiKey.expires_at <= func.now(), "expired"),
        ((holder.role != UserRole.ADMIN) & ~member, "not_a_member"),
        else_=VALID,
    )


_FIND = CompiledStatement(
    select(ApiKey.id, ApiKey.workspace_id, User.id, User.role)
    .join(User, User.id == ApiKey.user_id)
    .where(ApiKey.digest == bindparam("presented"), key_state(User) == VALID)
)


def find_caller(connection: Connection[Any], digest: bytes) -> Caller | None:
    """Find the holder of the key with this digest, if the key is valid now."""
    row = _FIND.run(connection, {"presented": digest}).fetchone()
    if row is None:
        return None
    api_key_id, workspace_id, user_id, role = row
    return Caller(
        api_key_id=api_key_id,
        user_id=user_id,
        role=UserRole(role),
        workspace_id=workspace_id,
    )


def find_callers(session: Session, api_key_ids: Sequence[UUID]) -> set[Caller]:
    """Give the holders of those of some keys that are valid now."""
    ids = literal(api_key_ids, ARRAY(PG_UUID(as_uuid=True)))
    rows = session.execute(
        select(ApiKey.id, ApiKey.workspace_id, User.id, User.role)
        .join(User, User.id == ApiKey.user_id)
        .where(ApiKey.id == any_(ids), key_state(User) == VALID)
    )
    return {
        Caller(
            api_key_id=api_key_id, user_id=user_id, role=UserRole(role), workspace_id=workspace_id
        )
        for api_key_id, workspace_id, user_id, role in rows
    }
