"""Workspaces, users, memberships and API keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Text, cast, delete, func, select, update
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by, insert
from sqlalchemy.orm import aliased

from shared.storage.callers import VALID, key_state
from shared.tables import ApiKey, Cvm, Membership, User, Workspace


if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import timedelta
    from uuid import UUID

    from sqlalchemy import ColumnElement, RowMapping, ScalarSelect
    from sqlalchemy.orm import Session

    from shared.models.states import UserRole


def add_workspace(session: Session, name: str) -> bool:
    """Add a workspace; False when there is one of that name already."""
    query = insert(Workspace).values(name=name).on_conflict_do_nothing(index_elements=["name"])
    return session.execute(query.returning(Workspace.id)).one_or_none() is not None


def find_workspace(session: Session, name: str) -> Workspace | None:
    """Find a workspace by its name."""
    return session.scalars(select(Workspace).where(Workspace.name == name)).one_or_none()


def list_workspaces(session: Session) -> Sequence[RowMapping]:
    """Read all workspaces by name: `name`, `members`, `cvms`, `valid_keys`, `created_at`."""
    return (
        session.execute(
            select(
                Workspace.name,
                _count(Membership.workspace_id == Workspace.id).label("members"),
                _count(Cvm.workspace_id == Workspace.id).label("cvms"),
                _valid_keys(ApiKey.workspace_id == Workspace.id).label("valid_keys"),
                Workspace.created_at,
            ).order_by(Workspace.name)
        )
        .mappings()
        .all()
    )


def add_user(session: Session, name: str, role: UserRole) -> UUID | None:
    """Add a user and give the id; None when there is one of that name already."""
    query = (
        insert(User).values(name=name, role=role).on_conflict_do_nothing(index_elements=["name"])
    )
    return session.execute(query.returning(User.id)).scalar_one_or_none()


def find_user(session: Session, name: str) -> User | None:
    """Find a user by name."""
    return session.scalars(select(User).where(User.name == name)).one_or_none()


def list_users(session: Session) -> Sequence[RowMapping]:
    """Read all users by name.

    Gives `name`, `role`, `workspaces` (names of those that the user is a member of),
    `valid_keys`, `created_at`, `revoked_at`.
    """
    workspaces = (
        select(func.array_agg(aggregate_order_by(Workspace.name, Workspace.name)))
        .join(Membership, Membership.workspace_id == Workspace.id)
        .where(Membership.user_id == User.id)
        .scalar_subquery()
    )
    return (
        session.execute(
            select(
                User.name,
                User.role,
                func.coalesce(workspaces, cast([], ARRAY(Text))).label("workspaces"),
                _valid_keys(ApiKey.user_id == User.id).label("valid_keys"),
                User.created_at,
                User.revoked_at,
            ).order_by(User.name)
        )
        .mappings()
        .all()
    )


def revoke_user(session: Session, user_id: UUID) -> None:
    """Make every key of a user worthless; a time that is there already stays."""
    session.execute(
        update(User)
        .where(User.id == user_id, User.revoked_at.is_(None))
        .values(revoked_at=func.now())
    )


def add_membership(session: Session, user_id: UUID, workspace_id: UUID) -> None:
    """Make a user a member of a workspace, if not one already."""
    session.execute(
        insert(Membership)
        .values(user_id=user_id, workspace_id=workspace_id)
        .on_conflict_do_nothing()
    )


def remove_membership(session: Session, user_id: UUID, workspace_id: UUID) -> bool:
    """End a membership; False when there was none."""
    query = delete(Membership).where(
        Membership.user_id == user_id, Membership.workspace_id == workspace_id
    )
    return session.execute(query.returning(Membership.user_id)).one_or_none() is not None


def is_member(session: Session, user_id: UUID, workspace_id: UUID) -> bool:
    """Whether a user is a member of a workspace."""
    return session.get(Membership, (user_id, workspace_id)) is not None


def add_key(
    session: Session,
    *,
    user_id: UUID,
    workspace_id: UUID,
    name: str,
    hint: str,
    digest: bytes,
    valid_for: timedelta | None,
) -> ApiKey:
    """Add an API key, valid from the database's now; for ever when `valid_for` is None."""
    return session.scalars(
        insert(ApiKey)
        .values(
            user_id=user_id,
            workspace_id=workspace_id,
            name=name,
            hint=hint,
            digest=digest,
            expires_at=None if valid_for is None else func.now() + valid_for,
        )
        .returning(ApiKey)
    ).one()


def list_keys(session: Session) -> Sequence[RowMapping]:
    """Read all keys, the newest first.

    Gives `id`, `hint`, `user`, `workspace`, `name`, `state` (`valid`, `expired`, `not_a_member`
    or `revoked`, the last also when it is the user who is revoked), `created_at`, `expires_at`,
    `revoked_at`.
    """
    return (
        session.execute(
            select(
                ApiKey.id,
                ApiKey.hint,
                User.name.label("user"),
                Workspace.name.label("workspace"),
                ApiKey.name,
                key_state(User).label("state"),
                ApiKey.created_at,
                ApiKey.expires_at,
                func.least(ApiKey.revoked_at, User.revoked_at).label("revoked_at"),
            )
            .join(User, User.id == ApiKey.user_id)
            .join(Workspace, Workspace.id == ApiKey.workspace_id)
            .order_by(ApiKey.created_at.desc(), ApiKey.id)
        )
        .mappings()
        .all()
    )


def find_key(session: Session, key_id: UUID) -> ApiKey | None:
    """Find a key by its id."""
    return session.get(ApiKey, key_id)


def find_keys_by_hint(session: Session, hint: str) -> Sequence[ApiKey]:
    """Find the keys that begin like that; normally one."""
    return session.scalars(select(ApiKey).where(ApiKey.hint == hint).order_by(ApiKey.id)).all()


def revoke_keys(session: Session, key_ids: Collection[UUID]) -> None:
    """Revoke keys; a time that is there already stays."""
    session.execute(
        update(ApiKey)
        .where(ApiKey.id.in_(key_ids), ApiKey.revoked_at.is_(None))
        .values(revoked_at=func.now())
    )


def revoke_keys_of_workspace(session: Session, workspace_id: UUID) -> int:
    """Revoke every key that is scoped to a workspace; gives how many were not revoked before."""
    query = (
        update(ApiKey)
        .where(ApiKey.workspace_id == workspace_id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=func.now())
        .returning(ApiKey.id)
    )
    return len(session.execute(query).all())


def _count(condition: ColumnElement[bool]) -> ScalarSelect[int]:
    """Count the rows that belong to the row of the query around it."""
    return select(func.count()).where(condition).scalar_subquery()


def _valid_keys(condition: ColumnElement[bool]) -> ScalarSelect[int]:
    holder = aliased(User)
    return (
        select(func.count())
        .select_from(ApiKey)
        .join(holder, holder.id == ApiKey.user_id)
        .where(condition, key_state(holder) == VALID)
        .scalar_subquery()
    )
