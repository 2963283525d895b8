"""The Celery app and its one task."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
from celery import Celery

from bench.sides.stock.database import SessionLocal
from shared.tables import Cvm, StopTask, VmHost


if TYPE_CHECKING:
    from celery import Task

CONNECTIONS = 200

celery = Celery("stock", broker=os.environ["CVMSTOP_BROKER_URL"])
celery.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
)

client = httpx.Client(
    timeout=30,
    limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
)


def call(host: VmHost, method: str, vm_uuid: str) -> dict[str, Any] | None:
    """Call the host."""
    response = client.post(f"{host.address}/prpc/{method}?json", json={"id": vm_uuid})
    response.raise_for_status()
    answer: dict[str, Any] | None = response.json()
    return answer


def is_down(answer: dict[str, Any] | None) -> bool:
    """Whether GetInfo says that the VM is down."""
    return answer is not None and (
        not answer["found"] or answer["info"]["status"] in {"stopped", "exited"}
    )


@celery.task(bind=True, acks_late=True, max_retries=5)
def stop_cvm(self: Task[Any, Any], stop_task_id: str) -> str:
    """Stop one CVM, and look whether it is down."""
    with SessionLocal() as session:
        task = session.get_one(StopTask, UUID(stop_task_id))
        cvm = session.get_one(Cvm, task.cvm_id)
        host = session.get_one(VmHost, task.vm_host_id)
        try:
            if not is_down(call(host, "GetInfo", task.vm_uuid)):
                call(host, "StopVm", task.vm_uuid)
                if not is_down(call(host, "GetInfo", task.vm_uuid)):
                    raise self.retry(countdown=2)
        except httpx.HTTPError as error:
            raise self.retry(exc=error, countdown=2) from error
        task.state = "succeeded"
        task.attempt += 1
        task.finished_at = datetime.now(UTC)
        cvm.in_progress = False
        cvm.status = "stopped"
        session.commit()
        return task.state
