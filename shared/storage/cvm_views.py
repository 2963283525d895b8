"""Looking up CVMs, with their drift, page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, exists, select
from sqlalchemy.orm import aliased

from shared.tables import Cvm, CvmDrift, StopTask, VmHost, Workspace


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from sqlalchemy import ColumnElement, RowMapping, Select
    from sqlalchemy.orm import Session

    from shared.models.pages import CvmFilter

LOOKED_THROUGH = 10_000
"""CVMs that are looked through for one page at most. No index has what a stop changes in them, so
that of a million CVMs the few in some state are not to be found at once.
"""

DriftHost = aliased(VmHost)

COLUMNS: tuple[Any, ...] = (
    Cvm.hash_id.label("id"),
    Cvm.name,
    Workspace.name.label("workspace"),
    VmHost.name.label("host"),
    Cvm.vm_uuid,
    Cvm.status,
    Cvm.in_progress,
    Cvm.gpu_rental_order,
    Cvm.seen_at,
    Cvm.vanished_at,
    CvmDrift.noticed_at.label("drift_noticed_at"),
    DriftHost.name.label("drift_host"),
    # Not one of another workspace, where the CVM was before: its stops are not told here.
    select(StopTask.id)
    .where(StopTask.id == CvmDrift.stop_task_id, StopTask.workspace_id == Cvm.workspace_id)
    .scalar_subquery()
    .label("drift_stop_task_id"),
    Cvm.created_at,
    Cvm.updated_at,
)


def joined(query: Select[Any]) -> Select[Any]:
    """Join what `COLUMNS` are of to a query of CVMs."""
    return (
        query.join(Workspace, Workspace.id == Cvm.workspace_id)
        .outerjoin(VmHost, VmHost.id == Cvm.vm_host_id)
        .outerjoin(CvmDrift, (CvmDrift.cvm_id == Cvm.id) & CvmDrift.ended_at.is_(None))
        .outerjoin(DriftHost, DriftHost.id == CvmDrift.vm_host_id)
    )


def _in_the_text(name: str, limit: int) -> ColumnElement[int]:
    """Give a limit that stands in the statement's text: see `stop_records`."""
    return bindparam(name, limit, literal_execute=True)


def _set(wanted: CvmFilter) -> Any:
    """Give the CVMs that are looked at: all, or a set that is found first, by itself.

    In the order of their ids, which is asked for next, PostgreSQL would go through all there are.
    """
    if wanted.host is None and wanted.drifted is not True:
        return Cvm.__table__.c
    found = select(Cvm.id, Cvm.hash_id, Cvm.workspace_id, Cvm.status, Cvm.in_progress)
    if wanted.drifted is True:
        found = found.join(CvmDrift, CvmDrift.cvm_id == Cvm.id).where(CvmDrift.ended_at.is_(None))
    if wanted.host is not None:
        host = select(VmHost.id).where(VmHost.name == wanted.host)
        found = found.where(Cvm.vm_host_id == host.correlate(None).scalar_subquery())
    return found.cte("found").prefix_with("MATERIALIZED").c


def _conditions(
    cvm: Any, wanted: CvmFilter, sees_only: UUID | None, after: str | None
) -> Iterator[ColumnElement[bool]]:
    """Say which of them are looked through."""
    if sees_only is not None:
        yield cvm.workspace_id == sees_only
    if wanted.workspace is not None:
        workspace = select(Workspace.id).where(Workspace.name == wanted.workspace)
        yield cvm.workspace_id == workspace.correlate(None).scalar_subquery()
    if after is not None:
        yield cvm.hash_id > after


def _picked(cvm: Any, wanted: CvmFilter) -> Iterator[ColumnElement[bool]]:
    """Say which of those are wanted."""
    if wanted.status is not None:
        yield cvm.status == wanted.status
    if wanted.in_progress is not None:
        yield cvm.in_progress.is_(wanted.in_progress)
    if wanted.drifted is False:
        yield ~exists().where(CvmDrift.cvm_id == cvm.id, CvmDrift.ended_at.is_(None))


def list_cvms(
    session: Session, wanted: CvmFilter, *, sees_only: UUID | None, after: str | None, limit: int
) -> tuple[Sequence[RowMapping], str | None]:
    """List CVMs by id: at most `limit` of those behind the id `after`.

    Returns
    -------
    tuple
        Rows of `COLUMNS`, and the id behind which the next page begins; None on the last one. A
        page may be short, or empty, and not be the last: `LOOKED_THROUGH` ends it too.
    """
    cvm = _set(wanted)
    through = (
        select(cvm.id, cvm.hash_id, cvm.status, cvm.in_progress)
        .where(*_conditions(cvm, wanted, sees_only, after))
        .order_by(cvm.hash_id)
    )
    is_picked = any(True for _ in _picked(cvm, wanted))
    most = LOOKED_THROUGH if is_picked else limit + 1
    looked_through = (
        through.limit(_in_the_text("most", most)).cte("looked_through").prefix_with("MATERIALIZED")
    )
    page = (
        select(looked_through.c.id)
        .where(*_picked(looked_through.c, wanted))
        .order_by(looked_through.c.hash_id)
        .limit(_in_the_text("rows", limit + 1))
        .cte("page")
        .prefix_with("MATERIALIZED")
    )
    query = joined(select(*COLUMNS).join(page, page.c.id == Cvm.id)).order_by(Cvm.hash_id)
    rows = session.execute(query).mappings().all()
    if len(rows) > limit:
        return rows[:limit], rows[limit - 1]["id"]
    if not is_picked:
        return rows, None
    passed = _in_the_text("passed", LOOKED_THROUGH - 1)
    last = through.with_only_columns(cvm.hash_id).offset(passed).limit(1)
    return rows, session.scalars(last).one_or_none()


def find_cvms(
    session: Session, hash_ids: Sequence[str], *, sees_only: UUID | None
) -> Sequence[RowMapping]:
    """Find those of some CVMs that the caller may see: `COLUMNS`, and `host_is_disabled`."""
    query = joined(
        select(*COLUMNS, VmHost.disabled_at.is_not(None).label("host_is_disabled")).select_from(Cvm)
    ).where(Cvm.hash_id.in_(hash_ids))
    if sees_only is not None:
        query = query.where(Cvm.workspace_id == sees_only)
    return session.execute(query).mappings().all()


def find_cvm(session: Session, hash_id: str, *, sees_only: UUID | None) -> RowMapping | None:
    """Find one CVM that the caller may see: a row of `COLUMNS`."""
    query = joined(select(*COLUMNS).select_from(Cvm)).where(Cvm.hash_id == hash_id)
    if sees_only is not None:
        query = query.where(Cvm.workspace_id == sees_only)
    return session.execute(query).mappings().one_or_none()
