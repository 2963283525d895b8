"""VM hosts and CVMs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import case, delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert

from shared.models.hosts import DEFAULT_CAP
from shared.storage.cvm_views import COLUMNS, joined
from shared.tables import Cvm, CvmDrift, StopTask, UnassignedVm, VmHost, Workspace


if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from sqlalchemy import RowMapping
    from sqlalchemy.orm import Session


BREAKER = case(
    (VmHost.breaker_open_until.is_(None), "closed"),
    (VmHost.breaker_open_until > func.now(), "open"),
    else_="half_open",
)
"""How a host's breaker stands, in a word for people."""


def put_host(
    session: Session,
    *,
    name: str,
    driver: str,
    address: str,
    cap: int | None,
    sealed_credentials: bytes | None,
    replace: bool,
) -> bool:
    """Add a host, or write all of it anew; False when it is there and may not be replaced.

    A replaced host starts with a closed breaker, and its list is due: what was known was about the
    old address. Where its VMs go stays as it is, and so does a cap that is not given.
    """
    values: dict[str, Any] = {
        "driver": driver,
        "address": address,
        "sealed_credentials": sealed_credentials,
    }
    query = insert(VmHost).values(name=name, max_concurrent_stops=cap or DEFAULT_CAP, **values)
    if replace:
        anew: dict[str, Any] = {
            "unreachable_count": 0,
            "breaker_open_until": None,
            "last_error": None,
            "unreachable_since": None,
            "next_sync_at": func.now(),
            "sync_error": None,
        }
        if cap is not None:
            anew["max_concurrent_stops"] = cap
        query = query.on_conflict_do_update(index_elements=["name"], set_={**values, **anew})
    else:
        query = query.on_conflict_do_nothing(index_elements=["name"])
    return session.execute(query.returning(VmHost.id)).one_or_none() is not None


def find_hosts(session: Session, names: Collection[str] | None) -> Sequence[VmHost]:
    """Find hosts by their names, or all; in the order of their names."""
    query = select(VmHost).order_by(VmHost.name)
    if names is not None:
        query = query.where(VmHost.name.in_(names))
    return session.scalars(query).all()


def lock_host(session: Session, host: VmHost) -> None:
    """Lock a host until the transaction ends: who wants to refer to it waits."""
    session.refresh(host, with_for_update=True)


def set_disabled(session: Session, host_ids: Collection[UUID], *, disabled: bool) -> None:
    """Take hosts out, or in again; one that is out already stays so since when it was."""
    # Locked in one order: two commands for the same hosts do not wait for each other in a circle.
    ids = session.scalars(
        select(VmHost.id)
        .where(VmHost.id.in_(host_ids))
        .order_by(VmHost.id)
        .with_for_update(key_share=True)
    ).all()
    session.execute(
        update(VmHost)
        .where(VmHost.id.in_(ids), VmHost.disabled_at.is_(None) == disabled)
        .values(disabled_at=func.now() if disabled else None)
        .execution_options(synchronize_session=False)
    )


def count_cvms(session: Session, host_id: UUID) -> int:
    """Count the CVMs on a host."""
    return session.scalars(select(func.count()).where(Cvm.vm_host_id == host_id)).one()


def count_stops(session: Session, host_id: UUID) -> int:
    """Count the stops on record for a host, whatever became of them."""
    return session.scalars(select(func.count()).where(StopTask.vm_host_id == host_id)).one()


def count_drifts(session: Session, host_id: UUID) -> int:
    """Count the drifts on record that were noticed on a host."""
    return session.scalars(select(func.count()).where(CvmDrift.vm_host_id == host_id)).one()


def delete_host(session: Session, host_id: UUID) -> None:
    """Delete a host, and what it lists; PostgreSQL refuses when something else refers to it."""
    session.execute(delete(UnassignedVm).where(UnassignedVm.vm_host_id == host_id))
    session.execute(delete(VmHost).where(VmHost.id == host_id))


def list_hosts(session: Session) -> Sequence[RowMapping]:
    """Read all hosts by name.

    Gives `name`, `driver`, `address`, `max_concurrent_stops`, `cvms` (how many), `breaker`
    (`closed`, `open`, or `half_open` while one stop at a time is let through to try),
    `breaker_open_until`, `last_error`, `disabled_at` (None, unless it was taken out), `adopts_into`
    (a workspace's name), `synced_at`, `next_sync_at`, `sync_error` and `created_at`; never
    credentials.
    """
    cvms = select(func.count()).where(Cvm.vm_host_id == VmHost.id).scalar_subquery()
    return (
        session.execute(
            select(
                VmHost.name,
                VmHost.driver,
                VmHost.address,
                VmHost.max_concurrent_stops,
                cvms.label("cvms"),
                BREAKER.label("breaker"),
                VmHost.breaker_open_until,
                VmHost.last_error,
                VmHost.disabled_at,
                Workspace.name.label("adopts_into"),
                VmHost.synced_at,
                VmHost.next_sync_at,
                VmHost.sync_error,
                VmHost.created_at,
            )
            .outerjoin(Workspace, Workspace.id == VmHost.adopts_into)
            .order_by(VmHost.name)
        )
        .mappings()
        .all()
    )


def read_standings(session: Session, host_ids: Collection[UUID]) -> dict[UUID, RowMapping]:
    """Read how hosts stand with us, by id.

    Gives `id`, `cap`, `stops_open`, `breaker` (as `list_hosts` has it), `last_error`, `disabled`.
    """
    stops = (
        select(StopTask.vm_host_id, func.count().label("stops_open"))
        # What the open stops' index has: the archive is not gone through.
        .where(StopTask.finished_at.is_(None))
        .group_by(StopTask.vm_host_id)
        .subquery()
    )
    rows = session.execute(
        select(
            VmHost.id,
            VmHost.max_concurrent_stops.label("cap"),
            func.coalesce(stops.c.stops_open, 0).label("stops_open"),
            BREAKER.label("breaker"),
            VmHost.last_error,
            VmHost.disabled_at.is_not(None).label("disabled"),
        )
        .outerjoin(stops, stops.c.vm_host_id == VmHost.id)
        .where(VmHost.id.in_(host_ids))
    )
    return {row["id"]: row for row in rows.mappings()}


def list_cvms(
    session: Session,
    *,
    workspace: str | None = None,
    status: str | None = None,
    host: str | None = None,
    drifted: bool = False,
    limit: int | None = None,
) -> Sequence[RowMapping]:
    """Read CVMs by id, narrowed down by names of their workspace and host, by status and by drift.

    Gives `shared.storage.cvm_views.COLUMNS`.
    """
    query = joined(select(*COLUMNS).select_from(Cvm)).order_by(Cvm.hash_id).limit(limit)
    if workspace is not None:
        query = query.where(Workspace.name == workspace)
    if status is not None:
        query = query.where(Cvm.status == status)
    if host is not None:
        query = query.where(VmHost.name == host)
    if drifted:
        query = query.where(CvmDrift.id.is_not(None))
    return session.execute(query).mappings().all()


def list_unassigned(session: Session, host: str | None) -> Sequence[RowMapping]:
    """Read the VMs that are no CVM, by host and name; of one host if named.

    Gives `host`, `vm_uuid`, `name`, `power_state`, `first_seen_at`, `seen_at`.
    """
    is_cvm = exists().where(
        Cvm.vm_host_id == UnassignedVm.vm_host_id, Cvm.vm_uuid == UnassignedVm.vm_uuid
    )
    query = (
        select(
            VmHost.name.label("host"),
            UnassignedVm.vm_uuid,
            UnassignedVm.name,
            UnassignedVm.power_state,
            UnassignedVm.first_seen_at,
            UnassignedVm.seen_at,
        )
        .join(VmHost, VmHost.id == UnassignedVm.vm_host_id)
        # Imported since the host's last sync.
        .where(~is_cvm)
        .order_by(VmHost.name, UnassignedVm.name, UnassignedVm.vm_uuid)
    )
    if host is not None:
        query = query.where(VmHost.name == host)
    return session.execute(query).mappings().all()
