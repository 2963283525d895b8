"""Who may do what: workspaces, users, memberships and API keys."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.states import UserRole
from shared.tables.base import Base, CreatedAt, RandomId


class Workspace(Base):
    """A set of CVMs and of the people who may stop them."""

    __tablename__ = "workspaces"

    id: Mapped[RandomId]
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[CreatedAt]


class User(Base):
    """A person or a program that holds API keys."""

    __tablename__ = "users"
    __table_args__ = (
        CheckConstraint(
            "role IN (" + ", ".join(f"'{role}'" for role in UserRole) + ")", name="role"
        ),
    )

    id: Mapped[RandomId]
    name: Mapped[str] = mapped_column(unique=True)
    role: Mapped[str]
    """A `UserRole`."""
    created_at: Mapped[CreatedAt]
    revoked_at: Mapped[datetime | None]
    """Since when none of the user's keys is valid."""


class Membership(Base):
    """A user belongs to a workspace."""

    __tablename__ = "memberships"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), primary_key=True)
    workspace_id: Mapped[UUID] = mapped_column(
        ForeignKey("workspaces.id"), primary_key=True, index=True
    )
    created_at: Mapped[CreatedAt]


class ApiKey(Base):
    """One API key, scoped to one workspace. Only its digest is kept."""

    __tablename__ = "api_keys"

    id: Mapped[RandomId]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), index=True)
    workspace_id: Mapped[UUID] = mapped_column(ForeignKey("workspaces.id"), index=True)
    name: Mapped[str]
    """What the key is for, in its owner's words."""
    hint: Mapped[str]
    """The key's first characters, to tell keys apart in a list."""
    digest: Mapped[bytes] = mapped_column(unique=True)
    """SHA-256 of the key, whose 256 random bits make a salt or a slow hash needless."""
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class PageSession(Base):
    """Somebody who is signed in at the page with an API key."""

    __tablename__ = "page_sessions"

    digest: Mapped[bytes] = mapped_column(primary_key=True)
    """SHA-256 of the token in the cookie, which has 256 random bits as a key has."""
    api_key_id: Mapped[UUID] = mapped_column(ForeignKey("api_keys.id"), index=True)
    """The key that was signed in with: the session ends when it does."""
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime] = mapped_column(index=True)
