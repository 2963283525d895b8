"""What follows once a batch is written down: workers are woken, and its address is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from shared.broker import STOPS_QUEUE
from shared.exceptions import BrokerUnavailableError
from shared.metrics import SendReason
from shared.spans import Kind


if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from fastapi import Response

    from api.parts import ApiParts
    from shared.models.turns import DueStop

log = structlog.get_logger(__name__)


def wake_workers(parts: ApiParts, stops: Sequence[DueStop]) -> None:
    """Count the stops and send a message for each, after the commit.

    A broker that is away costs half a second.
    """
    if not stops:
        return
    messages = parts.metrics.messages
    parts.metrics.stops_accepted.inc(len(stops))
    with parts.tracing.span(
        f"send {STOPS_QUEUE}",
        Kind.PRODUCER,
        {
            "messaging.system": "celery",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": STOPS_QUEUE,
            "messaging.batch.message_count": len(stops),
        },
    ) as span:
        try:
            parts.broker.send_stops(stops)
        except BrokerUnavailableError as error:
            messages.note_refused(SendReason.ACCEPTED, len(stops))
            # The stops are written down, and the dispatcher will send them.
            log.warning("broker unavailable, stops wait", stops=len(stops), error=str(error))
            span.fail(error.slug, str(error))
        else:
            messages.note_sent(SendReason.ACCEPTED, len(stops))


def tell_batch(response: Response, batch_id: UUID | None) -> None:
    """Say in headers where a batch is; nothing if none was written."""
    if batch_id is not None:
        response.headers["X-Batch-Id"] = str(batch_id)
        response.headers["Location"] = f"/api/v1/batches/{batch_id}"
