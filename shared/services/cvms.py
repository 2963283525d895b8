"""Looking at CVMs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.exceptions import NotFoundError
from shared.models.naming import require_text
from shared.models.pages import decode_cvm_cursor, encode_cvm_cursor
from shared.services.access import require_workspace
from shared.services.hosts import require_hosts
from shared.services.stop_records import Page
from shared.storage import cvm_views
from shared.storage import inventory as storage


if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import RowMapping
    from sqlalchemy.orm import Session

    from shared.models.callers import Caller
    from shared.models.pages import CvmFilter


def list_cvms(
    session: Session,
    *,
    workspace: str | None = None,
    status: str | None = None,
    host: str | None = None,
    drifted: bool = False,
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
    return storage.list_cvms(
        session, workspace=workspace, status=status, host=host, drifted=drifted, limit=limit
    )


def list_unassigned(session: Session, host: str | None) -> Sequence[RowMapping]:
    """List VMs that are no CVM; fields as `shared.storage.inventory.list_unassigned` has them.

    Raises
    ------
    NotFoundError
        There is no such host.
    """
    if host is not None:
        require_hosts(session, [host])
    return storage.list_unassigned(session, host)


def page_of_cvms(
    session: Session, caller: Caller, wanted: CvmFilter, *, cursor: str | None, limit: int
) -> Page[RowMapping]:
    """List the CVMs that the caller may see, by id.

    A page may be short, or empty, and have a cursor: so many CVMs were looked through for it.

    Raises
    ------
    InvalidCursorError
        The cursor is none of ours.
    """
    after = None if cursor is None else decode_cvm_cursor(cursor)
    rows, last = cvm_views.list_cvms(
        session, wanted, sees_only=caller.sees_only, after=after, limit=limit
    )
    return Page(items=list(rows), next_cursor=None if last is None else encode_cvm_cursor(last))


def find_cvm(session: Session, caller: Caller, hash_id: str) -> RowMapping:
    """Find a CVM with its drift.

    Raises
    ------
    NotFoundError
        There is none of that id that the caller may see.
    """
    row = cvm_views.find_cvm(session, hash_id, sees_only=caller.sees_only)
    if row is None:
        msg = f"no CVM {hash_id}"
        raise NotFoundError(msg)
    return row
