"""Writing batches down."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from psycopg.types.json import Jsonb
from sqlalchemy import (
    BigInteger,
    Boolean,
    Integer,
    Interval,
    LargeBinary,
    Text,
    Uuid,
    any_,
    bindparam,
    func,
    insert,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from shared.models.batches import BatchAnswer, RefusedCvm
from shared.models.turns import DueStop
from shared.storage.compiled import CompiledStatement
from shared.tables import Cvm, StopBatch, StopTask, VmHost


if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import timedelta

    from psycopg import Connection
    from sqlalchemy import Select

    from shared.models.batches import BatchRequest
    from shared.models.callers import Caller


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A CVM that was asked for and that the caller may see."""

    id: int
    hash_id: str
    may_be_stopped: bool
    """Not in progress, has a VM, and no GPU rental manages it."""
    host_is_disabled: bool


@dataclass(frozen=True, kw_only=True)
class EarlierBatch:
    """A batch that the same idempotency key has made before."""

    request_digest: bytes
    answer: BatchAnswer
    """As it was given then; nothing is to be sent for it."""


@dataclass(frozen=True, kw_only=True)
class Retries:
    """What the stops of a batch try again."""

    batch: UUID
    stops: Sequence[UUID]
    """In the order of the CVMs: the stop before the one that is written for each."""


def _build_candidates(*, everywhere: bool, lock: bool) -> CompiledStatement:
    # Found once for the request, from an index that is empty as a rule, and not joined for each
    # CVM: a join costs a look into `vm_hosts` each, and would have to be kept out of the lock.
    disabled = select(VmHost.id).where(VmHost.disabled_at.is_not(None)).correlate(None)
    query = (
        select(
            Cvm.id,
            Cvm.hash_id,
            Cvm.in_progress.is_(False) & Cvm.vm_uuid.is_not(None) & Cvm.gpu_rental_order.is_(None),
            func.coalesce(Cvm.vm_host_id == any_(func.array(disabled.scalar_subquery())), False),
        )
        .where(Cvm.hash_id == any_(bindparam("hash_ids", type_=ARRAY(Text))))
        .order_by(Cvm.id)
    )
    if not everywhere:
        query = query.where(Cvm.workspace_id == bindparam("sees_only", type_=Uuid))
    return CompiledStatement(query.with_for_update() if lock else query)


_CANDIDATES = {
    (everywhere, lock): _build_candidates(everywhere=everywhere, lock=lock)
    for everywhere in (False, True)
    for lock in (False, True)
}


def find_candidates(
    connection: Connection[Any], hash_ids: Collection[str], *, sees_only: UUID | None, lock: bool
) -> dict[str, Candidate]:
    """Read the CVMs of a request, by hash id; what the caller may not see is not there.

    Parameters
    ----------
    connection
        In an open transaction.
    hash_ids
        Ids as the caller wrote them, any text.
    sees_only
        The only workspace to look in; None for all.
    lock
        Lock the rows until the transaction ends, in the order of their keys, so that two requests
        for the same CVMs take turns and never wait for each other in a circle.
    """
    parameters: dict[str, Any] = {"hash_ids": list(set(hash_ids))}
    if sees_only is not None:
        parameters["sees_only"] = sees_only
    rows = _CANDIDATES[sees_only is None, lock].run(connection, parameters)
    return {
        hash_id: Candidate(
            id=row_id,
            hash_id=hash_id,
            may_be_stopped=may_be_stopped,
            host_is_disabled=host_is_disabled,
        )
        for row_id, hash_id, may_be_stopped, host_is_disabled in rows
    }


def request_digest(cvm_ids: Collection[str]) -> bytes:
    """SHA-256 of a request's ids in their order; tells two bodies apart."""
    digest = hashlib.sha256()
    for cvm_id in cvm_ids:
        encoded = cvm_id.encode()
        digest.update(len(encoded).to_bytes(8) + encoded)
    return digest.digest()


_LOCK_KEY = CompiledStatement(
    select(func.pg_advisory_xact_lock(func.hashtextextended(bindparam("lock_name", type_=Text), 0)))
)
_EARLIER = CompiledStatement(
    select(
        StopBatch.request_digest,
        StopBatch.id,
        StopBatch.total,
        StopBatch.stopped,
        StopBatch.skipped,
        StopBatch.errors,
    ).where(
        StopBatch.user_id == bindparam("user"),
        StopBatch.workspace_id == bindparam("workspace"),
        StopBatch.idempotency_key == bindparam("key"),
    )
)


def find_earlier(
    connection: Connection[Any], caller: Caller, idempotency_key: str
) -> EarlierBatch | None:
    """Find the batch that this caller's key has made before; waits for one that is being made."""
    lock_name = f"{caller.user_id} {caller.workspace_id} {idempotency_key}"
    _LOCK_KEY.run(connection, {"lock_name": lock_name})
    row = _EARLIER.run(
        connection,
        {"user": caller.user_id, "workspace": caller.workspace_id, "key": idempotency_key},
    ).fetchone()
    if row is None:
        return None
    request_digest, batch_id, total, stopped, skipped, errors = row
    return EarlierBatch(
        request_digest=request_digest,
        answer=BatchAnswer(
            batch_id=batch_id,
            total=total,
            stopped=stopped,
            skipped=skipped,
            errors=tuple(RefusedCvm(**error) for error in errors),
        ),
    )


def _build_add(*, retries: bool, traced: bool) -> Select[UUID, UUID, int, str]:
    request_id = bindparam("request_id", type_=Text)
    batch = (
        insert(StopBatch)
        .values(
            workspace_id=bindparam("workspace", type_=Uuid),
            user_id=bindparam("user", type_=Uuid),
            api_key_id=bindparam("api_key", type_=Uuid),
            by_admin=bindparam("by_an_admin", type_=Boolean),
            request_id=request_id,
            total=bindparam("asked", type_=Integer),
            stopped=bindparam("taken", type_=Integer),
            skipped=bindparam("passed_over", type_=Integer),
            errors=bindparam("refused", type_=JSONB),
            idempotency_key=bindparam("key", type_=Text),
            request_digest=bindparam("digest", type_=LargeBinary),
            **({"retry_of": bindparam("batch_before", type_=Uuid)} if retries else {}),
            **({"traceparent": bindparam("span", type_=Text)} if traced else {}),
        )
        .returning(StopBatch.id)
        .cte("batch")
    )
    ids = bindparam("cvms", type_=ARRAY(BigInteger))
    put_in_progress = (
        update(Cvm)
        .where(Cvm.id == any_(ids))
        .values(in_progress=True, updated_at=func.now())
        .cte("put_in_progress")
    )
    columns = ["batch_id", "cvm_id", "workspace_id", "vm_host_id", "vm_uuid", "request_id"]
    values: list[Any] = [
        batch.c.id,
        Cvm.id,
        Cvm.workspace_id,
        Cvm.vm_host_id,
        Cvm.vm_uuid,
        request_id,
        func.now() + bindparam("deadline", type_=Interval),
        func.now(),
    ]
    columns += ["deadline_at", "sent_at"]
    if retries:
        # Each stop points to the one before it, which stands where its CVM does.
        before = bindparam("stops_before", type_=ARRAY(Uuid))
        pairs = func.unnest(ids, before).table_valued("cvm_id", "stop_id").render_derived("pairs")
        columns.append("retry_of")
        values.append(pairs.c.stop_id)
        rows = select(*values).where(Cvm.id == pairs.c.cvm_id)
    else:
        rows = select(*values).where(Cvm.id == any_(ids))
    task = (
        insert(StopTask)
        .from_select(columns, rows)
        .returning(StopTask.id, StopTask.cvm_id, StopTask.vm_host_id)
        .cte("task")
    )
    # Not a join, which may give the stops host by host: they are sent in this order.
    host = select(VmHost.name).where(VmHost.id == task.c.vm_host_id).scalar_subquery()
    return (
        select(batch.c.id, task.c.id, task.c.cvm_id, host)
        .select_from(batch.outerjoin(task, true()))
        .add_cte(put_in_progress)
    )


_ADD = {
    (retries, traced): CompiledStatement(_build_add(retries=retries, traced=traced))
    for retries in (False, True)
    for traced in (False, True)
}


def add_batch(
    connection: Connection[Any],
    caller: Caller,
    request: BatchRequest,
    answer: BatchAnswer,
    cvms: Mapping[int, str],
    *,
    deadline: timedelta,
    retries: Retries | None = None,
) -> BatchAnswer:
    """Write a batch, put its CVMs in progress, and write a stop task for each, in one statement.

    The stops are written as sent: the caller sends right after the commit, and should that fail,
    the dispatcher takes them for lost after `resend_after`.

    Parameters
    ----------
    connection
        In the transaction that has locked the CVMs.
    caller, request, answer
        Who asked, for what, and what is answered.
    cvms
        The CVMs to stop: their rows' ids, with their public ones.
    deadline
        How long after now the stops fail.
    retries
        What is tried again, if anything.

    Returns
    -------
    BatchAnswer
        The answer with the batch's id, and what is to be sent.
    """
    more: dict[str, Any] = {}
    if retries is not None:
        more |= {"batch_before": retries.batch, "stops_before": list(retries.stops)}
    if request.traceparent is not None:
        more |= {"span": request.traceparent}
    rows = (
        _ADD[retries is not None, request.traceparent is not None]
        .run(
            connection,
            {
                **more,
                "workspace": caller.workspace_id,
                "user": caller.user_id,
                "api_key": caller.api_key_id,
                "by_an_admin": caller.sees_only is None,
                "request_id": request.request_id,
                "asked": answer.total,
                "taken": answer.stopped,
                "passed_over": answer.skipped,
                "refused": Jsonb([{"cvm_id": e.cvm_id, "error": e.error} for e in answer.errors]),
                "key": request.idempotency_key,
                "digest": request_digest(request.cvm_ids) if request.idempotency_key else None,
                "cvms": list(cvms),
                "deadline": deadline,
            },
        )
        .fetchall()
    )
    return replace(
        answer,
        batch_id=rows[0][0],
        to_send=tuple(
            DueStop(stop_task_id=task, request_id=request.request_id, cvm_id=cvms[cvm], host=host)
            for _, task, cvm, host in rows
            if task is not None
        ),
    )
