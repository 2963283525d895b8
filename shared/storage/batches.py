"""Writing batches down."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Interval, any_, bindparam, func, insert, literal, select, update
from sqlalchemy.dialects.postgresql import ARRAY

from shared.models.turns import DueStop
from shared.tables import Cvm, StopBatch, StopTask


if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import timedelta
    from uuid import UUID

    from sqlalchemy.orm import Session

    from shared.models.batches import BatchAnswer, BatchRequest
    from shared.models.callers import Caller


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A CVM that was asked for and that the caller may see."""

    id: int
    hash_id: str
    may_be_stopped: bool
    """Not in progress, has a VM, and no GPU rental manages it."""


def find_candidates(
    session: Session, hash_ids: Collection[str], *, sees_only: UUID | None, lock: bool
) -> dict[str, Candidate]:
    """Read the CVMs of a request, by hash id; what the caller may not see is not there.

    Parameters
    ----------
    session
        Open transaction.
    hash_ids
        Ids as the caller wrote them, any text.
    sees_only
        The only workspace to look in; None for all.
    lock
        Lock the rows until the transaction ends, in the order of their keys, so that two requests
        for the same CVMs take turns and never wait for each other in a circle.
    """
    wanted = bindparam("hash_ids", list(set(hash_ids)), type_=ARRAY(Cvm.hash_id.type))
    query = (
        select(
            Cvm.id,
            Cvm.hash_id,
            Cvm.in_progress.is_(False) & Cvm.vm_uuid.is_not(None) & Cvm.gpu_rental_order.is_(None),
        )
        .where(Cvm.hash_id == any_(wanted))
        .order_by(Cvm.id)
    )
    if sees_only is not None:
        query = query.where(Cvm.workspace_id == sees_only)
    if lock:
        query = query.with_for_update()
    return {
        hash_id: Candidate(id=row_id, hash_id=hash_id, may_be_stopped=may_be_stopped)
        for row_id, hash_id, may_be_stopped in session.execute(query)
    }


def request_digest(cvm_ids: Collection[str]) -> bytes:
    """SHA-256 of a request's ids in their order; tells two bodies apart."""
    digest = hashlib.sha256()
    for cvm_id in cvm_ids:
        encoded = cvm_id.encode()
        digest.update(len(encoded).to_bytes(8) + encoded)
    return digest.digest()


def find_earlier(session: Session, caller: Caller, idempotency_key: str) -> StopBatch | None:
    """Find the batch that this caller's key has made before; waits for one that is being made."""
    lock_name = f"{caller.user_id} {caller.workspace_id} {idempotency_key}"
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(lock_name, 0))))
    return session.scalars(
        select(StopBatch).where(
            StopBatch.user_id == caller.user_id,
            StopBatch.workspace_id == caller.workspace_id,
            StopBatch.idempotency_key == idempotency_key,
        )
    ).one_or_none()


def add_batch(session: Session, caller: Caller, request: BatchRequest, answer: BatchAnswer) -> UUID:
    """Write a batch and its answer; gives the batch's id."""
    return session.execute(
        insert(StopBatch)
        .values(
            workspace_id=caller.workspace_id,
            user_id=caller.user_id,
            api_key_id=caller.api_key_id,
            by_admin=caller.sees_only is None,
            request_id=request.request_id,
            total=answer.total,
            stopped=answer.stopped,
            skipped=answer.skipped,
            errors=[{"cvm_id": e.cvm_id, "error": e.error} for e in answer.errors],
            idempotency_key=request.idempotency_key,
            request_digest=request_digest(request.cvm_ids) if request.idempotency_key else None,
        )
        .returning(StopBatch.id)
    ).scalar_one()


def add_stops(
    session: Session, batch_id: UUID, cvms: list[int], *, request_id: str, deadline: timedelta
) -> tuple[DueStop, ...]:
    """Put CVMs in progress and write a stop task for each, in one statement.

    The rows are written as sent: the caller sends right after the commit, and should that fail,
    the dispatcher takes them for lost after `resend_after`.
    """
    ids = bindparam("cvms", cvms, type_=ARRAY(BigInteger))
    put_in_progress = (
        update(Cvm)
        .where(Cvm.id == any_(ids))
        .values(in_progress=True, updated_at=func.now())
        .cte("put_in_progress")
    )
    columns = ["batch_id", "cvm_id", "workspace_id", "vm_host_id", "vm_uuid", "request_id"]
    rows = select(
        literal(batch_id),
        Cvm.id,
        Cvm.workspace_id,
        Cvm.vm_host_id,
        Cvm.vm_uuid,
        literal(request_id),
        func.now() + literal(deadline, Interval),
        func.now(),
    ).where(Cvm.id == any_(ids))
    accepted = session.execute(
        insert(StopTask)
        .from_select([*columns, "deadline_at", "sent_at"], rows)
        .returning(StopTask.id)
        .add_cte(put_in_progress)
    ).scalars()
    return tuple(DueStop(stop_task_id=task, request_id=request_id) for task in accepted)
