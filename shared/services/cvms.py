"""Looking at CVMs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.models.naming import require_text
from shared.services.access import require_workspace
from shared.services.hosts import require_hosts
from shared.storage import inventory as storage


if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import RowMapping
    from sqlalchemy.orm import Session


def list_cvms(
    session: Session,
    *,
    workspace: str | None = None,
    status: str | None = None,
    host: str | None = None,
    limit: int | None = None,
) -> Sequence[RowMapping]:
    """List CVMs by id; fields as `shared.storage.inventory.list_cvms` has them.

    Raises
    ------
    NotFoundError
        There is no such workspace or host: a misspelt name must not look like an empty one.
    InvalidValueError
        One of the texts is none that could be there.
    """
    if workspace is not None:
        require_workspace(session, workspace)
    if host is not None:
        require_hosts(session, [host])
    if status is not None:
        require_text(status, "the status")
    return storage.list_cvms(session, workspace=workspace, status=status, host=host, limit=limit)
