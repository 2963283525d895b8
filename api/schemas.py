"""What goes over the wire, and nothing else. The first three are the specification's own."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

from shared.models.batches import MAX_BATCH
from shared.models.errors import ErrorCode
from shared.models.naming import text_problem
from shared.models.operations import (
    DEFAULT_EXPIRES_IN,
    MAX_EXPIRES_IN,
    OPERATION_NAME_LENGTH,
)
from shared.models.states import AttemptOutcome, PowerState, StopState


def _storable(text: str) -> str:
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        msg = "must not contain NUL characters or lone surrogates"
        raise ValueError(msg)
    return text


PlainText = Annotated[str, AfterValidator(_storable)]
"""Text that PostgreSQL and UTF-8 can hold; JSON's escapes allow some that they cannot."""


def _no_timestamp(text: Any) -> Any:
    if isinstance(text, str) and not DATE_AND_TIME.match(text):
        msg = "must be a date and a time, such as 2026-07-01T12:00:00Z"
        raise ValueError(msg)
    return text


DATE_AND_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}")
"""How an instant begins (RFC 3339)."""

Instant = Annotated[AwareDatetime, BeforeValidator(_no_timestamp)]
"""An instant with its time zone; of itself pydantic takes `2026` for a second of 1970."""


def _as_specified(schema: dict[str, Any]) -> None:
    """Make the schema the specification's, which does not tell what is checked elsewhere.

    Unknown fields are refused (a misspelt one must not go unnoticed); the 50 are checked by the
    service, because too many of them are a 400 and not a 422.
    """
    del schema["additionalProperties"]
    schema["properties"]["cvm_ids"]["maxItems"] = MAX_BATCH


class BatchStopRequest(BaseModel):
    """Request to batch stop multiple CVMs."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_as_specified)

    cvm_ids: list[PlainText] = Field(description="List of CVM hash IDs to stop")


class BatchStopErrorEntry(BaseModel):
    """Error detail for a single CVM in batch stop."""

    cvm_id: str = Field(description="Hashed CVM ID")
    error: str = Field(description="Error message")


class BatchStopResponse(BaseModel):
    """Summary of batch stop operation."""

    total: int = Field(description="Total CVMs requested")
    stopped: int = Field(description="CVMs successfully scheduled for stop")
    skipped: int = Field(description="CVMs skipped (in_progress, no vm_uuid, GPU rental managed)")
    errors: list[BatchStopErrorEntry] = Field(
        default_factory=list, description="CVMs that failed to stop"
    )


class Refusal(BaseModel):
    """Why a request was not served."""

    detail: str = Field(description="For people: what is wrong, and what to do")
    error: str = Field(description="For programs: always the same for the same reason")


def _speakable(text: str) -> str:
    if problem := text_problem(text, longest=OPERATION_NAME_LENGTH):
        raise ValueError(problem)
    return text


class CvmOperationRequest(BaseModel):
    """What another control plane does with a CVM."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, AfterValidator(_speakable)] = Field(
        description="What is done, such as `resize`",
        min_length=1,
        max_length=OPERATION_NAME_LENGTH,
    )
    expires_in: int = Field(
        default=DEFAULT_EXPIRES_IN,
        description="Seconds until it ends by itself, if it is neither renewed nor cleared",
        strict=True,
        ge=1,
        le=MAX_EXPIRES_IN,
    )


class CvmOperationView(BaseModel):
    """An operation that is open on a CVM."""

    cvm_id: str = Field(description="Hashed CVM ID")
    name: str
    user: str = Field(description="The admin that said so last")
    started_at: datetime
    expires_at: datetime


class StopTaskView(BaseModel):
    """One CVM's stop. `id` is also the id of its Celery task."""

    id: UUID
    batch_id: UUID
    cvm_id: str = Field(description="Hashed CVM ID")
    vm_uuid: str = Field(description="The VM's id on its host, when the stop was accepted")
    host: str
    workspace: str
    request_id: str
    retry_of: UUID | None = Field(description="The stop task that this one tries again")
    retried_by: UUID | None = Field(description="The newest stop task that tries this one again")
    state: StopState
    attempts: int = Field(description="How often a worker has claimed it")
    accepted_at: datetime
    due_at: datetime = Field(description="When a worker is woken next, while it is open")
    deadline_at: datetime
    finished_at: datetime | None
    worker: str | None = Field(description="The Celery node that claimed it last")
    error_code: ErrorCode | None
    error_message: str | None


class ExchangeView(BaseModel):
    """One request to the host and its answer."""

    request: str
    answer: str
    seconds: float


class AttemptView(BaseModel):
    """One worker's turn with a stop."""

    number: int
    worker: str
    started_at: datetime
    finished_at: datetime | None
    outcome: AttemptOutcome
    power_state: PowerState | None = Field(description="What the host reported last")
    error_code: ErrorCode | None
    error_message: str | None
    exchanges: list[ExchangeView] = Field(description="What was sent, and what the host answered")


class StopTaskDetail(StopTaskView):
    """One CVM's stop with everything that was tried."""

    attempt_log: list[AttemptView]


class StopTaskPage(BaseModel):
    """A page of stop tasks, newest first."""

    items: list[StopTaskView]
    next_cursor: str | None


class FailureGroupView(BaseModel):
    """Stop tasks that failed on one host for one reason."""

    error_code: ErrorCode
    host: str
    count: int
    oldest_at: datetime = Field(description="When the first of them was accepted")
    newest_at: datetime = Field(description="When the last of them was accepted")
    sample_id: UUID = Field(description="The stop task that was accepted last")
    sample_message: str | None = Field(description="Its error")


class FailureGroupList(BaseModel):
    """Failed stop tasks by reason and host."""

    groups: list[FailureGroupView] = Field(description="The biggest first")
    counted: int = Field(description="Failures that were counted, the newest")
    left_out: int = Field(description="Groups that are not shown, each no bigger than the last")
    is_cut_off: bool = Field(description="There are older failures, which were not counted")


class DriftView(BaseModel):
    """A CVM was seen running after its newest stop had succeeded, and not down since."""

    noticed_at: datetime = Field(description="When the host was asked that reported it")
    host: str
    stop_task_id: UUID | None = Field(
        description="The stop that had succeeded; null if it was in another workspace"
    )


class CvmView(BaseModel):
    """One CVM, as it was seen last."""

    id: str = Field(description="Hashed CVM ID")
    name: str
    workspace: str
    host: str | None
    vm_uuid: str | None = Field(description="The VM's id on its host; null while there is none")
    status: str = Field(description="As last reported by its host, or as imported")
    in_progress: bool = Field(description="An operation on it is open")
    seen_at: datetime | None = Field(
        description="When its host last listed or reported it, to some minutes"
    )
    vanished_at: datetime | None = Field(description="Since when its host lists it no more")
    drift: DriftView | None = Field(description="Set while it runs though its stop has succeeded")
    created_at: datetime
    updated_at: datetime


class CvmPage(BaseModel):
    """A page of CVMs, by id. It may be short, or empty, and not be the last one."""

    items: list[CvmView]
    next_cursor: str | None


class BatchView(BaseModel):
    """One accepted request and how its stops stand."""

    id: UUID
    workspace: str
    user: str
    request_id: str
    retry_of: UUID | None = Field(description="The batch whose stops it tries again")
    accepted_at: datetime
    total: int
    stopped: int
    skipped: int
    errors: list[BatchStopErrorEntry]
    counts: dict[StopState, int] = Field(description="Stop tasks by state; adds up to `stopped`")
    open: int = Field(description="Stop tasks that have not ended yet")


class BatchDetail(BatchView):
    """One accepted request with its stop tasks."""

    tasks: list[StopTaskView]


class BatchPage(BaseModel):
    """A page of batches, newest first."""

    items: list[BatchView]
    next_cursor: str | None
