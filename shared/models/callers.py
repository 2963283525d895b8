"""Who is asking."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from shared.models.states import UserRole


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The holder of a valid API key, for the length of one request."""

    api_key_id: UUID
    user_id: UUID
    role: UserRole
    workspace_id: UUID
    """The key's workspace: the caller's current one."""

    @property
    def sees_only(self) -> UUID | None:
        """The one workspace that the caller may see; None for an admin, who sees all."""
        return None if self.role is UserRole.ADMIN else self.workspace_id
