"""Finding the trace that a stop belongs to. Read only where traces are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, select

from shared.storage.compiled import CompiledStatement
from shared.tables import Cvm, StopBatch, StopTask


if TYPE_CHECKING:
    from uuid import UUID

    from psycopg import Connection


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a stop comes from."""

    traceparent: str | None
    """The span of the request that asked for it; None if that had none."""
    request_id: str
    cvm_id: str


_ORIGIN = CompiledStatement(
    select(StopBatch.traceparent, StopTask.request_id, Cvm.hash_id)
    .join(StopTask, StopTask.batch_id == StopBatch.id)
    .join(Cvm, Cvm.id == StopTask.cvm_id)
    .where(StopTask.id == bindparam("stop"))
)


def find_origin(connection: Connection[Any], stop_task_id: UUID) -> Origin | None:
    """Read where a stop comes from; None if there is no such stop."""
    row = _ORIGIN.run(connection, {"stop": stop_task_id}).fetchone()
    if row is None:
        return None
    traceparent, request_id, cvm_id = row
    return Origin(traceparent=traceparent, request_id=request_id, cvm_id=cvm_id)
