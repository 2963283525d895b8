"""VM hosts and CVMs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import case, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from shared.tables import Cvm, CvmDrift, StopTask, UnassignedVm, VmHost, Workspace


if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from sqlalchemy import RowMapping
    from sqlalchemy.orm import Session


def put_host(
    session: Session,
    *,
    name: str,
    driver: str,
    address: str,
    cap: int,
    sealed_credentials: bytes | None,
    replace: bool,
) -> bool:
    """Add a host, or write all of it anew; False when it is there and may not be replaced.

    A replaced host starts with a closed breaker: what was known was about the old address.
    """
    values = {
        "driver": driver,
        "address": address,
        "max_concurrent_stops": cap,
        "sealed_credentials": sealed_credentials,
    }
    query = insert(VmHost).values(name=name, **values)
    if replace:
        query = query.on_conflict_do_update(
            index_elements=["name"],
            set_={**values, "unreachable_count": 0, "breaker_open_until": None, "last_error": None},
        )
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
    `breaker_open_until`, `last_error`, `created_at`. Never credentials.
    """
    cvms = select(func.count()).where(Cvm.vm_host_id == VmHost.id).scalar_subquery()
    breaker = case(
        (VmHost.breaker_open_until.is_(None), "closed"),
        (VmHost.breaker_open_until > func.now(), "open"),
        else_="half_open",
    )
    return (
        session.execute(
            select(
                VmHost.name,
                VmHost.driver,
                VmHost.address,
                VmHost.max_concurrent_stops,
                cvms.label("cvms"),
                breaker.label("breaker"),
                VmHost.breaker_open_until,
                VmHost.last_error,
                VmHost.created_at,
            ).order_by(VmHost.name)
        )
        .mappings()
        .all()
    )


def list_cvms(
    session: Session,
    *,
    workspace: str | None = None,
    status: str | None = None,
    host: str | None = None,
    limit: int | None = None,
) -> Sequence[RowMapping]:
    """Read CVMs by id, narrowed down by names of their workspace and host and by their status.

    Gives `id` (the public one), `name`, `workspace`, `host`, `vm_uuid`, `status`, `in_progress`,
    `gpu_rental_order`, `created_at`, `updated_at`.
    """
    query = (
        select(
            Cvm.hash_id.label("id"),
            Cvm.name,
            Workspace.name.label("workspace"),
            VmHost.name.label("host"),
            Cvm.vm_uuid,
            Cvm.status,
            Cvm.in_progress,
            Cvm.gpu_rental_order,
            Cvm.created_at,
            Cvm.updated_at,
        )
        .join(Workspace, Workspace.id == Cvm.workspace_id)
        .outerjoin(VmHost, VmHost.id == Cvm.vm_host_id)
        .order_by(Cvm.hash_id)
        .limit(limit)
    )
    if workspace is not None:
        query = query.where(Workspace.name == workspace)
    if status is not None:
        query = query.where(Cvm.status == status)
    if host is not None:
        query = query.where(VmHost.name == host)
    return session.execute(query).mappings().all()
