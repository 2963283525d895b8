"""VM hosts and CVMs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import case, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from shared.tables import Cvm, StopTask, VmHost, Workspace


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


def delete_host(session: Session, host_id: UUID) -> None:
    """Delete a host; PostgreSQL refuses when a CVM or a stop refers to it."""
    session.execute(delete(VmHost).where(VmHost.id == host_id))


def list_hosts(session: Session) -> Sequence[RowMapping]:
    """Read all hosts by name.

    Gives `name`, `driver`, `address`, `max_concurrent_stops`, `cvms` (how many), `breaker`
    (`closed`, `open`, or `half_open` while one stop at a time is let through to try),
    `breaker_open_until`, `last_error`, `disabled_at` (None, unless it was taken out), `created_at`.
    Never credentials.
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
                VmHost.created_at,
            ).order_by(VmHost.name)
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
