"""What a worker claims, and what it settles it with."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID


if TYPE_CHECKING:
    from shared.models.errors import ErrorCode, Fate
    from shared.models.states import PowerState


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One stop that this worker, and no other, may work on until its lease runs out."""

    stop_task_id: UUID
    attempt: int
    """Fences the settling: a later attempt makes this claim worthless."""
    vm_host_id: UUID
    vm_uuid: str
    request_id: str
    seconds_since_force_stop: float | None
    """Since the host last took a force stop for it; None if it never did."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One request to a host and what came back; kept with the attempt, for people to read."""

    request: str
    """What was sent, without credentials: `StopVm {"id": "…"}`."""
    answer: str
    """What came back, cut to a bounded length, or the error instead of an answer."""
    seconds: float
    error: str | None = None
    """An `ErrorCode`, or the status of an answer that is none of success. It is in the answer too,
    for people; this is for programs, and is not kept."""

    def as_json(self) -> dict[str, Any]:
        """Shape of one element of `stop_attempts.exchanges`."""
        return {
            "request": self.request,
            "answer": self.answer,
            "seconds": round(self.seconds, 4),
        }


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a turn did not reach its end."""

    code: ErrorCode
    fate: Fate
    message: str


@dataclass(frozen=True, kw_only=True)
class TurnResult:
    """How one turn went. Exactly one of: down, waiting to be confirmed, failed."""

    power_state: PowerState | None
    """What the host last reported; None if it reported nothing."""
    is_down: bool = False
    """The host was seen to report the VM stopped or absent, and there is no reason to doubt it."""
    look_again_after: float | None = None
    """Seconds to wait before confirming; None leaves it to the settings."""
    force_stopped: bool = False
    """The host took a force stop in this turn (or may have)."""
    failure: Failure | None = None
    exchanges: tuple[Exchange, ...] = field(default=())


@dataclass(frozen=True, kw_only=True)
class DueStop:
    """A stop to wake a worker for."""

    stop_task_id: UUID
    request_id: str
    cvm_id: str
    """The CVM's public id. As the host's name, for who looks at the message: Flower."""
    host: str
    was_sent: bool = False
    """A message was sent for it before, and nobody has claimed it."""

    @property
    def shown(self) -> str:
        """What it is, for people: `cvm_a1b2c3 on node-7`."""
        return f"{self.cvm_id} on {self.host}"


@dataclass(frozen=True, kw_only=True)
class OverdueStop:
    """A stop that has failed because its deadline passed while it waited."""

    host: str
    """The host's name."""
    age: float
    """Seconds since it was accepted."""


class Refusal(StrEnum):
    """Why a stop could not be claimed. None of them is an error."""

    NOT_WAITING = "not waiting"
    """Claimed by another worker, or closed already: the usual end of a repeated message."""
    NOT_DUE = "not due yet"
    """Came too early; the dispatcher will send it when it is due."""
    BREAKER_OPEN = "breaker open"
    """The host does not answer; the dispatcher will send it when the breaker lets one through."""
    HOST_AT_CAP = "host at cap"
    """As many stops run on the host as may; the end of one of them wakes the next."""
    HOST_BUSY = "host's row is held"
    """Somebody holds it for long; the dispatcher will send the stop again."""
