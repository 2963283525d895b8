"""Many CVMs at once, as imports and removals have. One statement each, whatever the number."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, any_, bindparam, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY

from shared.database import unbounded
from shared.tables import Cvm, StopTask, VmHost, Workspace


if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from uuid import UUID

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from shared.models.inventory import CvmRecord

IMPORT_LOCK = 0x63766D69
"""Number of the advisory lock that lets one import run at a time ("cvmi" in ASCII)."""

Vm = tuple["UUID", str]
"""Host and `vm_uuid`: one VM."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownCvm:
    """What an import must know of a CVM that is there."""

    vm: tuple[UUID | None, str | None]
    """Its host and `vm_uuid`."""
    in_progress: bool


@contextmanager
def own_turn(session: Session) -> Iterator[None]:
    """Let imports run one after the other, each as long as it takes.

    The next one's turn comes when the transaction ends, not already with the block.
    """
    with unbounded(session.connection()):
        session.execute(select(func.pg_advisory_xact_lock(IMPORT_LOCK)))
        yield


def find_ids(
    session: Session, table: type[Workspace | VmHost], names: Collection[str]
) -> dict[str, UUID]:
    """Find the ids of named workspaces or hosts; a name that is not there is left out."""
    rows = session.execute(select(table.name, table.id).where(table.name == _any_text(names)))
    return {row.name: row.id for row in rows}


def hosts_by_driver(session: Session, names: Collection[str], drivers: Collection[str]) -> set[str]:
    """Give those of the named hosts that one of the drivers is for."""
    query = select(VmHost.name).where(VmHost.name == _any_text(names), VmHost.driver.in_(drivers))
    return set(session.scalars(query))


def lock_cvms(session: Session, hash_ids: Collection[str]) -> dict[str, KnownCvm]:
    """Read CVMs and lock them until the transaction ends.

    In the order of their keys, as requests do: neither waits for the other in a circle.
    """
    rows = session.execute(
        select(Cvm.hash_id, Cvm.vm_host_id, Cvm.vm_uuid, Cvm.in_progress)
        .where(Cvm.hash_id == _any_text(hash_ids))
        .order_by(Cvm.id)
        .with_for_update(key_share=True)
    )
    return {
        hash_id: KnownCvm(vm=(host_id, vm_uuid), in_progress=in_progress)
        for hash_id, host_id, vm_uuid, in_progress in rows
    }


def find_owners(session: Session, vms: Collection[Vm]) -> dict[Vm, str]:
    """Find the hash ids of the CVMs that have these VMs now."""
    rows = session.execute(
        text(
            "SELECT cvms.vm_host_id, cvms.vm_uuid, cvms.hash_id FROM cvms"
            " JOIN unnest(CAST(:hosts AS uuid[]), CAST(:uuids AS text[])) AS wanted (host, uuid)"
            " ON cvms.vm_host_id = wanted.host AND cvms.vm_uuid = wanted.uuid"
        ),
        {"hosts": [host for host, _ in vms], "uuids": [vm_uuid for _, vm_uuid in vms]},
    )
    return {(host, vm_uuid): hash_id for host, vm_uuid, hash_id in rows}


def find_stopped(session: Session, hash_ids: Collection[str]) -> list[str]:
    """Find those of the CVMs that have stops on record; gives their hash ids in order."""
    stops = select(StopTask.id).where(StopTask.cvm_id == Cvm.id)
    query = select(Cvm.hash_id).where(Cvm.hash_id == _any_text(hash_ids), stops.exists())
    return list(session.scalars(query.order_by(Cvm.hash_id)))


def delete_cvms(session: Session, hash_ids: Collection[str]) -> None:
    """Delete CVMs; PostgreSQL refuses when one has stops on record."""
    session.execute(delete(Cvm).where(Cvm.hash_id == _any_text(hash_ids)))


def take_vms_away(session: Session, hash_ids: Collection[str]) -> None:
    """Leave CVMs without a VM, so that others can have theirs."""
    session.execute(update(Cvm).where(Cvm.hash_id == _any_text(hash_ids)).values(vm_uuid=None))


def put_cvms(
    session: Session,
    records: Sequence[CvmRecord],
    *,
    workspaces: dict[str, UUID],
    hosts: dict[str, UUID],
) -> None:
    """Add CVMs or bring them up to date; `in_progress` stays as it is.

    A row that says the same already is not written: importing a whole inventory again leaves no
    dead rows. Who wants to stop one of its CVMs waits until the import commits all the same,
    because `lock_cvms` has locked every one.
    """
    session.execute(
        text(PUT_CVMS),
        {
            "hash_ids": [record.hash_id for record in records],
            "names": [record.name for record in records],
            "workspaces": [workspaces[record.workspace] for record in records],
            "hosts": [hosts[record.host] if record.host else None for record in records],
            "vm_uuids": [record.vm_uuid for record in records],
            "statuses": [record.status for record in records],
            "orders": [record.gpu_rental_order for record in records],
            "keeps": [record.keeps_gpu_rental_order for record in records],
        },
    )


PUT_CVMS = """
WITH incoming AS (
    SELECT *
    FROM unnest(
        CAST(:hash_ids AS text[]), CAST(:names AS text[]), CAST(:workspaces AS uuid[]),
        CAST(:hosts AS uuid[]), CAST(:vm_uuids AS text[]), CAST(:statuses AS text[]),
        CAST(:orders AS text[]), CAST(:keeps AS boolean[])
    ) AS line (hash_id, name, workspace_id, vm_host_id, vm_uuid, status, gpu_order, keeps_order)
), merged AS (
    SELECT
        incoming.hash_id, incoming.name, incoming.workspace_id, incoming.vm_host_id,
        incoming.vm_uuid,
        coalesce(incoming.status, cvms.status, 'unknown') AS status,
        CASE WHEN keeps_order THEN cvms.gpu_rental_order ELSE gpu_order END AS gpu_rental_order
    FROM incoming LEFT JOIN cvms USING (hash_id)
)
INSERT INTO cvms (hash_id, name, workspace_id, vm_host_id, vm_uuid, status, gpu_rental_order)
SELECT * FROM merged
ON CONFLICT (hash_id) DO UPDATE SET
    name = excluded.name,
    workspace_id = excluded.workspace_id,
    vm_host_id = excluded.vm_host_id,
    vm_uuid = excluded.vm_uuid,
    status = excluded.status,
    gpu_rental_order = excluded.gpu_rental_order,
    seen_at = CASE WHEN (cvms.vm_host_id, cvms.vm_uuid) IS NOT DISTINCT FROM
        (excluded.vm_host_id, excluded.vm_uuid) THEN cvms.seen_at END,
    vanished_at = CASE WHEN (cvms.vm_host_id, cvms.vm_uuid) IS NOT DISTINCT FROM
        (excluded.vm_host_id, excluded.vm_uuid) THEN cvms.vanished_at END,
    updated_at = clock_timestamp()
WHERE (
    cvms.name, cvms.workspace_id, cvms.vm_host_id, cvms.vm_uuid, cvms.status, cvms.gpu_rental_order
) IS DISTINCT FROM (
    excluded.name, excluded.workspace_id, excluded.vm_host_id, excluded.vm_uuid, excluded.status,
    excluded.gpu_rental_order
)
"""
"""One row of the arrays for each CVM; what a line leaves out comes from the row that is there."""


def _any_text(values: Collection[str]) -> ColumnElement[Any]:
    return any_(bindparam(None, list(values), type_=ARRAY(Text)))
