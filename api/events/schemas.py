"""What events carry. Programs read it: fields are added to it, and none are taken away."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from pydantic import BaseModel, Field

from shared.models.errors import ErrorCode
from shared.models.states import StopState


if TYPE_CHECKING:
    from shared.models.batch_history import Step


class StopEvent(BaseModel):
    """`event: stop`: a stop was accepted, or has come to another state."""

    stop_task_id: UUID
    cvm_id: str = Field(description="Hashed CVM ID")
    host: str
    state: StopState
    attempt: int = Field(description="How often a worker had claimed it; 0 when it was accepted")
    error_code: ErrorCode | None = Field(
        description="Of its last failed try while it is open; of the failure when it has failed"
    )
    at: datetime


class EndEvent(BaseModel):
    """`event: end`: every stop of the batch has ended, and the stream ends with it."""

    batch_id: UUID
    counts: dict[StopState, int] = Field(description="Stop tasks by state, zeros included")


def stop_event(step: Step) -> StopEvent:
    """Show one step."""
    return StopEvent(
        stop_task_id=step.stop_task_id,
        cvm_id=step.cvm_id,
        host=step.host,
        state=step.to.state,
        attempt=step.to.attempt,
        error_code=None if step.to.error_code is None else ErrorCode(step.to.error_code),
        at=step.to.at,
    )
