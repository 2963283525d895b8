"""A batch stop: what was asked, and what is answered."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from shared.models.turns import DueStop


MAX_BATCH = 50
"""CVMs in one request. Source: the endpoint's specification, `maxItems` of `cvm_ids`."""

CVM_NOT_FOUND = "CVM not found"
"""The same for an unknown id and for one of another workspace (I6)."""

HOST_DISABLED = "VM host is disabled"
"""The CVM could be stopped, but its host was taken out (`cvmstop hosts disable`)."""


@dataclass(frozen=True, kw_only=True)
class BatchRequest:
    """One request, after its form was checked."""

    cvm_ids: tuple[str, ...]
    """Hash ids, in the caller's order, repeats included."""
    request_id: str
    idempotency_key: str | None = None
    traceparent: str | None = None
    """The request's span, if it has one (`shared.spans.Tracing.traceparent`)."""


@dataclass(frozen=True, kw_only=True)
class RefusedCvm:
    """An id that cannot be stopped, and why."""

    cvm_id: str
    error: str


@dataclass(frozen=True, kw_only=True)
class BatchAnswer:
    """What became of each id: `total == stopped + skipped + len(errors)` (I1)."""

    batch_id: UUID | None
    """None for a dry run."""
    total: int
    stopped: int
    skipped: int
    errors: tuple[RefusedCvm, ...]
    to_send: tuple[DueStop, ...] = ()
    """Stops to wake workers for, once the transaction is committed; none for a replay."""
