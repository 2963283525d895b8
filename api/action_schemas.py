"""What is answered to whoever retries or cancels stops."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from pydantic import BaseModel, Field

from shared.models.actions import Obstacle


if TYPE_CHECKING:
    from shared.models.actions import CancelAnswer, NotDone, RetryAnswer


class NotDoneView(BaseModel):
    """A stop task that was not retried, or not canceled."""

    stop_task_id: UUID
    cvm_id: str = Field(description="Hashed CVM ID")
    reason: Obstacle = Field(description="For programs")
    detail: str = Field(description="For people")


class RetryView(BaseModel):
    """What became of each stop task; `total` is `retried` and those in `not_retried`."""

    batch_id: UUID | None = Field(
        description="The new stop tasks' batch; null, and none written, if nothing is retried"
    )
    total: int
    retried: int
    not_retried: list[NotDoneView]


class CancelView(BaseModel):
    """What became of each stop task; `total` is `canceled` and those in `not_canceled`."""

    total: int
    canceled: int
    not_canceled: list[NotDoneView]


def retry_view(answer: RetryAnswer) -> RetryView:
    """Show what a retry came to."""
    return RetryView(
        batch_id=answer.batch_id,
        total=answer.total,
        retried=answer.retried,
        not_retried=[_not_done(each) for each in answer.not_retried],
    )


def cancel_view(answer: CancelAnswer) -> CancelView:
    """Show what a cancellation came to."""
    return CancelView(
        total=answer.total,
        canceled=answer.canceled,
        not_canceled=[_not_done(each) for each in answer.not_canceled],
    )


def _not_done(each: NotDone) -> NotDoneView:
    return NotDoneView(
        stop_task_id=each.stop_task_id,
        cvm_id=each.cvm_id,
        reason=each.obstacle,
        detail=each.obstacle.message,
    )
