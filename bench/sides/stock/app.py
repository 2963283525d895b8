"""The FastAPI app: `uvicorn bench.sides.stock.app:app`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from bench.sides.stock.database import SessionLocal
from bench.sides.stock.tasks import stop_cvm
from shared.tables import ApiKey, Cvm, StopBatch, StopTask, User


app = FastAPI()


class BatchStop(BaseModel):
    """The request."""

    cvm_ids: list[str] = Field(max_length=50)


class Refused(BaseModel):
    """A CVM that cannot be stopped."""

    cvm_id: str
    error: str


class Summary(BaseModel):
    """The answer."""

    total: int
    stopped: int
    skipped: int
    errors: list[Refused]


def open_session() -> Iterator[Session]:
    """Give a request its session."""
    with SessionLocal() as session:
        yield session


Database = Annotated[Session, Depends(open_session)]


def find_key(session: Database, x_api_key: Annotated[str | None, Header()] = None) -> ApiKey:
    """Check the API key."""
    digest = hashlib.sha256((x_api_key or "").encode()).digest()
    key = session.scalars(select(ApiKey).where(ApiKey.digest == digest)).one_or_none()
    if key is None or key.revoked_at is not None:
        raise HTTPException(401, "a valid API key is required")
    return key


@app.post("/api/v1/cvms/batch-stop")
def batch_stop(
    body: BatchStop, session: Database, key: Annotated[ApiKey, Depends(find_key)]
) -> Summary:
    """Stop CVMs one by one."""
    user = session.get_one(User, key.user_id)
    batch = StopBatch(
        workspace_id=key.workspace_id,
        user_id=user.id,
        api_key_id=key.id,
        by_admin=user.role == "admin",
        request_id="stock",
        total=len(body.cvm_ids),
        stopped=0,
        skipped=0,
        errors=[],
    )
    # It has to add up when it is written, which is when it is complete.
    tasks: list[StopTask] = []
    errors: list[Refused] = []
    for cvm_id in body.cvm_ids:
        with session.no_autoflush:
            cvm = session.scalars(select(Cvm).where(Cvm.hash_id == cvm_id)).one_or_none()
        if cvm is None or (user.role != "admin" and cvm.workspace_id != key.workspace_id):
            errors.append(Refused(cvm_id=cvm_id, error="CVM not found"))
            continue
        if cvm.in_progress or cvm.vm_uuid is None or cvm.gpu_rental_order is not None:
            batch.skipped += 1
            continue
        cvm.in_progress = True
        batch.stopped += 1
        tasks.append(
            StopTask(
                cvm_id=cvm.id,
                workspace_id=cvm.workspace_id,
                vm_host_id=cvm.vm_host_id,
                vm_uuid=cvm.vm_uuid,
                request_id="stock",
                deadline_at=datetime.now(UTC) + timedelta(minutes=15),
            )
        )
    batch.errors = [error.model_dump() for error in errors]
    session.add(batch)
    session.flush()
    for task in tasks:
        task.batch_id = batch.id
        session.add(task)
    session.commit()
    for task in tasks:
        stop_cvm.delay(str(task.id))
    return Summary(total=batch.total, stopped=batch.stopped, skipped=batch.skipped, errors=errors)
