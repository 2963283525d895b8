"""Retrying and canceling stops: what could not be done, and what is answered."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from shared.models.turns import DueStop


class Obstacle(StrEnum):
    """Why a stop is not retried, or not canceled."""

    NOT_FAILED = "not_failed"
    STOPPED_SINCE = "stopped_since"
    IN_PROGRESS = "in_progress"
    CVM_NOT_FOUND = "cvm_not_found"
    NO_VM = "no_vm"
    GPU_RENTAL = "gpu_rental"
    HOST_DISABLED = "host_disabled"
    BEING_WORKED_ON = "being_worked_on"
    FORCE_STOPPED = "force_stopped"
    ENDED = "ended"

    @property
    def message(self) -> str:
        """Say it to a person."""
        return _MESSAGES[self]

    @property
    def is_an_error(self) -> bool:
        """Whether the batch of a retry counts it in `errors`; all others are `skipped`."""
        return self in {Obstacle.CVM_NOT_FOUND, Obstacle.HOST_DISABLED}


_MESSAGES = {
    Obstacle.NOT_FAILED: "the stop has neither failed nor been canceled",
    Obstacle.STOPPED_SINCE: "a later stop of the CVM has succeeded; if it runs again, stop it anew",
    Obstacle.IN_PROGRESS: "an operation on the CVM is in progress",
    Obstacle.CVM_NOT_FOUND: "CVM not found",
    Obstacle.NO_VM: "the CVM has no VM",
    Obstacle.GPU_RENTAL: "a GPU rental manages the CVM",
    Obstacle.HOST_DISABLED: "VM host is disabled",
    Obstacle.BEING_WORKED_ON: "a worker is working on the stop",
    Obstacle.FORCE_STOPPED: "the host took the force stop already",
    Obstacle.ENDED: "the stop has ended",
}


@dataclass(frozen=True, kw_only=True)
class NotDone:
    """A stop that was not retried or not canceled."""

    stop_task_id: UUID
    cvm_id: str
    obstacle: Obstacle


@dataclass(frozen=True, kw_only=True)
class RetryAnswer:
    """What became of each stop: `total == retried + len(not_retried)`."""

    batch_id: UUID | None
    """The batch of the new stops; None, and nothing written, when there are none."""
    total: int
    retried: int
    not_retried: tuple[NotDone, ...]
    to_send: tuple[DueStop, ...] = ()
    """Stops to wake workers for, once the transaction is committed."""


@dataclass(frozen=True, kw_only=True)
class CancelAnswer:
    """What became of each stop: `total == canceled + len(not_canceled)`."""

    total: int
    canceled: int
    not_canceled: tuple[NotDone, ...]
