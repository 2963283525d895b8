"""From rows to what goes over the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shared.models.states import OPEN_STATES


if TYPE_CHECKING:
    from sqlalchemy import RowMapping

    from shared.services.stop_records import BatchProgress
    from shared.storage.stop_records import StopRecord
    from shared.tables import StopAttempt


def stop_fields(record: StopRecord) -> dict[str, Any]:
    """Give the fields of a `StopTaskView`."""
    task = record.task
    return {
        "id": task.id,
        "batch_id": task.batch_id,
        "cvm_id": record.cvm_id,
        "vm_uuid": task.vm_uuid,
        "host": record.host,
        "workspace": record.workspace,
        "request_id": task.request_id,
        "retry_of": record.retry_of,
        "retried_by": record.retried_by,
        "state": task.state,
        "attempts": task.attempt,
        "accepted_at": task.accepted_at,
        "due_at": task.due_at,
        "deadline_at": task.deadline_at,
        "finished_at": task.finished_at,
        "worker": task.worker,
        "error_code": task.error_code,
        "error_message": task.error_message,
    }


def cvm_fields(row: RowMapping) -> dict[str, Any]:
    """Give the fields of a `CvmView`."""
    drift = None
    if row["drift_noticed_at"] is not None:
        drift = {
            "noticed_at": row["drift_noticed_at"],
            "host": row["drift_host"],
            "stop_task_id": row["drift_stop_task_id"],
        }
    return {
        "id": row["id"],
        "name": row["name"],
        "workspace": row["workspace"],
        "host": row["host"],
        "vm_uuid": row["vm_uuid"],
        "status": row["status"],
        "in_progress": row["in_progress"],
        "seen_at": row["seen_at"],
        "vanished_at": row["vanished_at"],
        "drift": drift,
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
    }


def attempt_fields(attempt: StopAttempt) -> dict[str, Any]:
    """Give the fields of an `AttemptView`."""
    return {
        "number": attempt.number,
        "worker": attempt.worker,
        "started_at": attempt.started_at,
        "finished_at": attempt.finished_at,
        "outcome": attempt.outcome,
        "power_state": attempt.power_state,
        "error_code": attempt.error_code,
        "error_message": attempt.error_message,
        "exchanges": attempt.exchanges,
    }


def batch_fields(progress: BatchProgress) -> dict[str, Any]:
    """Give the fields of a `BatchView`."""
    batch = progress.record.batch
    return {
        "id": batch.id,
        "workspace": progress.record.workspace,
        "user": progress.record.user,
        "request_id": batch.request_id,
        "retry_of": batch.retry_of,
        "accepted_at": batch.accepted_at,
        "total": batch.total,
        "stopped": batch.stopped,
        "skipped": batch.skipped,
        "errors": batch.errors,
        "counts": progress.counts,
        "open": sum(progress.counts[state] for state in OPEN_STATES),
    }
