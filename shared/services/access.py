"""Who may do what: workspaces, users, memberships and API keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from shared import api_keys
from shared.exceptions import (
    AmbiguousHintError,
    KeyNotAllowedError,
    NameTakenError,
    NotFoundError,
)
from shared.models.naming import require_name, require_text
from shared.models.states import UserRole
from shared.storage import access as storage


if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from sqlalchemy.orm import Session

    from shared.tables import ApiKey, User, Workspace


@dataclass(frozen=True, kw_only=True)
class NewKey:
    """An API key that was just made: the only time that the key itself is at hand."""

    id: UUID
    plain: str
    hint: str
    user: str
    workspace: str
    name: str
    expires_at: datetime | None

    def __repr__(self) -> str:
        return f"NewKey(id={self.id}, hint={self.hint!r})"


def require_workspace(session: Session, name: str) -> Workspace:
    """Find a workspace by its name.

    Raises
    ------
    InvalidValueError
        The name is none.
    NotFoundError
        There is no such workspace.
    """
    require_name(name, "workspace")
    workspace = storage.find_workspace(session, name)
    if workspace is None:
        msg = f"there is no workspace {name}"
        raise NotFoundError(msg)
    return workspace


def create_workspace(session: Session, name: str) -> None:
    """Add a workspace.

    Raises
    ------
    InvalidValueError
        The name is none.
    NameTakenError
        There is one of that name.
    """
    require_name(name, "workspace")
    if not storage.add_workspace(session, name):
        msg = f"there is a workspace {name} already"
        raise NameTakenError(msg)


def create_user(session: Session, name: str, *, role: UserRole, workspaces: Sequence[str]) -> None:
    """Add a user, a member of the named workspaces.

    Raises
    ------
    InvalidValueError
        The name is none.
    NameTakenError
        There is one of that name, or was: names of revoked users are not given again.
    NotFoundError
        No such workspace.
    """
    require_name(name, "user")
    found = [require_workspace(session, workspace) for workspace in workspaces]
    user_id = storage.add_user(session, name, role)
    if user_id is None:
        msg = f"there is a user {name} already"
        raise NameTakenError(msg)
    for workspace in found:
        storage.add_membership(session, user_id, workspace.id)


def revoke_user(session: Session, name: str) -> None:
    """Make every key of a user worthless, for good. Doing it again changes nothing.

    Raises
    ------
    NotFoundError
        No such user.
    """
    storage.revoke_user(session, _user(session, name).id)


def add_to_workspace(session: Session, user: str, workspace: str) -> None:
    """Make a user a member of a workspace. Doing it again changes nothing.

    Raises
    ------
    NotFoundError
        No such user or workspace.
    """
    storage.add_membership(
        session, _user(session, user).id, require_workspace(session, workspace).id
    )


def remove_from_workspace(session: Session, user: str, workspace: str) -> None:
    """End a membership; the user's keys for that workspace stop working (an admin's do not).

    Raises
    ------
    NotFoundError
        No such user or workspace, or the user is not a member of it.
    """
    found = _user(session, user), require_workspace(session, workspace)
    if not storage.remove_membership(session, found[0].id, found[1].id):
        msg = f"user {user} is not a member of workspace {workspace}"
        raise NotFoundError(msg)


def create_key(
    session: Session, *, user: str, workspace: str, name: str, valid_for: timedelta | None
) -> NewKey:
    """Make an API key, scoped to one workspace.

    Parameters
    ----------
    session
        Open transaction; the key works once it has committed.
    user, workspace
        Names.
    name
        What the key is for.
    valid_for
        From now, by the database's clock; None for ever.

    Raises
    ------
    NotFoundError
        No such user or workspace.
    KeyNotAllowedError
        The user is revoked, or neither an admin nor a member of the workspace.
    InvalidValueError
        The text cannot be taken.
    """
    require_text(name, "the key's name")
    holder = _user(session, user)
    scope = require_workspace(session, workspace)
    if holder.revoked_at is not None:
        msg = f"user {user} is revoked: no key of theirs works"
        raise KeyNotAllowedError(msg)
    if holder.role != UserRole.ADMIN and not storage.is_member(session, holder.id, scope.id):
        msg = (
            f"user {user} is not a member of workspace {workspace}:"
            f" run `cvmstop users add-to {user} {workspace}` first"
        )
        raise KeyNotAllowedError(msg)
    plain = api_keys.new_api_key()
    row = storage.add_key(
        session,
        user_id=holder.id,
        workspace_id=scope.id,
        name=name,
        hint=api_keys.hint(plain),
        digest=api_keys.digest(plain),
        valid_for=valid_for,
    )
    return NewKey(
        id=row.id,
        plain=plain,
        hint=row.hint,
        user=user,
        workspace=workspace,
        name=name,
        expires_at=row.expires_at,
    )


def revoke_key(session: Session, id_or_hint: str) -> UUID:
    """Revoke one API key and give its id. Doing it again changes nothing.

    Parameters
    ----------
    session
        Open transaction.
    id_or_hint
        The key's id, or its first characters as `list_keys` shows them.

    Raises
    ------
    NotFoundError
        No such key.
    AmbiguousHintError
        More than one unrevoked key begins like that; the message has their ids.
    """
    key = _key(session, id_or_hint)
    storage.revoke_keys(session, [key.id])
    return key.id


def revoke_keys_of_workspace(session: Session, workspace: str) -> int:
    """Revoke every API key that is scoped to a workspace; gives how many.

    Raises
    ------
    NotFoundError
        No such workspace.
    """
    return storage.revoke_keys_of_workspace(session, require_workspace(session, workspace).id)


def _key(session: Session, id_or_hint: str) -> ApiKey:
    found: Sequence[ApiKey]
    try:
        by_id = storage.find_key(session, UUID(id_or_hint))
        found = [by_id] if by_id else []
    except ValueError:
        require_text(id_or_hint, "the hint")
        found = storage.find_keys_by_hint(session, id_or_hint)
    found = [key for key in found if key.revoked_at is None] or found
    if not found:
        msg = "there is no such API key; `cvmstop keys list` shows ids and hints"
        raise NotFoundError(msg)
    if len(found) > 1 and found[0].revoked_at is None:
        ids = ", ".join(str(key.id) for key in found)
        msg = f"more than one API key begins with {id_or_hint}; give one of their ids: {ids}"
        raise AmbiguousHintError(msg)
    return found[0]


def _user(session: Session, name: str) -> User:
    require_name(name, "user")
    user = storage.find_user(session, name)
    if user is None:
        msg = f"there is no user {name}"
        raise NotFoundError(msg)
    return user
