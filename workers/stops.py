"""What a worker does with one message: claim the stop, take a turn, settle it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_exponential_jitter,
)

from shared.database import driver_transaction
from shared.exceptions import (
    BrokerUnavailableError,
    DatabaseUnavailableError,
    HostBusyError,
    SealError,
)
from shared.failpoints import Failpoint, reach
from shared.metrics import SendReason
from shared.models.errors import ErrorCode, Fate
from shared.models.turns import Failure, Refusal, TurnResult
from shared.services.stops import ClaimedStop, claim_stop, connection_of, settle_stop
from shared.spans import Kind
from workers.drivers.errors import HostError
from workers.spans import exchange_teller, task_span, tell_end
from workers.turns import Turn, internal_failure


if TYPE_CHECKING:
    from uuid import UUID

    from shared.models.turns import Claim
    from shared.services.stops import Settled
    from shared.spans import Span
    from workers.parts import WorkerParts

log = structlog.get_logger(__name__)

SETTLE_RETRY = 0.2
"""Seconds before settling is tried again when the database is away; doubles each time.

PostgreSQL is back about a second after it was killed.
"""

SETTLE_RETRY_MAX = 2.0
"""Longest such wait, in seconds."""

STALE = "too late: another worker has the stop"
"""Result of a turn whose claim ran out before it was settled; nothing was changed."""


def work_on_stop(parts: WorkerParts, stop_task_id: UUID, *, worker: str) -> str:
    """Take one turn with one stop, if it is to be had.

    Parameters
    ----------
    parts
        What the process has.
    stop_task_id
        The stop task, and the Celery task.
    worker
        Name of this Celery node; stays with the attempt.

    Returns
    -------
    str
        The stop's new state, or why there was no turn; for Flower and the log.

    Raises
    ------
    DatabaseUnavailableError
        The stop stays as it is, and the dispatcher sends it again.
    """
    began = time.monotonic()
    reach(Failpoint.WORKER_RECEIVED)
    with task_span(parts, stop_task_id) as span:
        return _work(parts, stop_task_id, worker=worker, began=began, span=span)


def _work(parts: WorkerParts, stop_task_id: UUID, *, worker: str, began: float, span: Span) -> str:
    try:
        with driver_transaction(parts.engine) as connection:
            claimed = claim_stop(connection, stop_task_id, worker=worker, settings=parts.settings)
    except HostBusyError as error:
        log.warning("no turn", reason=str(error))
        parts.metrics.note_refusal(Refusal.HOST_BUSY)
        span.tell({"cvmstop.claim.refused": str(Refusal.HOST_BUSY)})
        return str(Refusal.HOST_BUSY)
    if isinstance(claimed, Refusal):
        log.debug("no turn", reason=str(claimed))
        parts.metrics.note_refusal(claimed)
        span.tell({"cvmstop.claim.refused": str(claimed)})
        return str(claimed)
    span.tell({"cvmstop.host.name": claimed.host.name, "cvmstop.attempt": claimed.claim.attempt})
    reach(Failpoint.WORKER_CLAIMED)
    result = _take_turn(parts, claimed, began=began)
    reach(Failpoint.WORKER_TURN_TAKEN)
    # What the host said is worth keeping while the claim stands: without it the stop waits for its
    # lease to run out, and the host is asked all over again.
    retrying = Retrying(
        retry=retry_if_exception_type(DatabaseUnavailableError),
        stop=stop_after_delay(parts.settings.lease - (time.monotonic() - began)),
        wait=wait_exponential_jitter(
            multiplier=SETTLE_RETRY, max=SETTLE_RETRY_MAX, jitter=SETTLE_RETRY
        ),
        reraise=True,
    )
    with parts.tracing.span("settle", Kind.INTERNAL, {}) as settling:
        settled = retrying(_settle, parts, claimed.claim, result)
        tell_end(span, settling, settled, result)
    parts.metrics.note_turn(claimed.host.name, settled, time.monotonic() - began)
    if settled is None:
        log.warning("turn came too late", attempt=claimed.claim.attempt)
        return STALE
    reach(Failpoint.WORKER_SETTLED)
    failure = result.failure
    log.info(
        "turn ended",
        state=str(settled.state),
        attempt=claimed.claim.attempt,
        host=claimed.host.name,
        power_state=None if result.power_state is None else str(result.power_state),
        error=None if failure is None else failure.message,
    )
    _wake_next(parts, settled)
    return str(settled.state)


def _wake_next(parts: WorkerParts, settled: Settled) -> None:
    messages = parts.metrics.messages
    try:
        parts.broker.send_stops(settled.wake)
    except BrokerUnavailableError as error:
        messages.note_refused(SendReason.WOKEN, len(settled.wake))
        log.warning("broker unavailable, the dispatcher will wake the next", error=str(error))
    else:
        messages.note_sent(SendReason.WOKEN, len(settled.wake))


def _settle(parts: WorkerParts, claim: Claim, result: TurnResult) -> Settled | None:
    with driver_transaction(parts.engine) as connection:
        return settle_stop(connection, claim, result, settings=parts.settings)


def _take_turn(parts: WorkerParts, claimed: ClaimedStop, *, began: float) -> TurnResult:
    """Take the turn; whatever goes wrong is a result, so that it is written down."""
    try:
        driver = parts.drivers.get(connection_of(claimed.host, parts.sealer))
        with structlog.contextvars.bound_contextvars(host=claimed.host.name):
            tell = exchange_teller(parts.tracing, claimed.host)
            return Turn(driver, claimed.claim, parts.settings, began=began, tell=tell).take()
    except HostError as error:
        failure = error.as_failure()
    except SealError as error:
        failure = Failure(
            code=ErrorCode.BAD_HOST_CONFIGURATION, fate=Fate.FINAL, message=str(error)
        )
    except Exception as error:
        log.exception("turn broke", attempt=claimed.claim.attempt)
        failure = internal_failure(error)
    return TurnResult(power_state=None, failure=failure)
