"""What follows once stops are canceled: it is counted and logged, whoever asked for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog


if TYPE_CHECKING:
    from uuid import UUID

    from api.parts import ApiParts

log = structlog.get_logger(__name__)


def note_canceled(parts: ApiParts, canceled: int, **asked_for: UUID) -> None:
    """Count and log it, after the commit.

    Parameters
    ----------
    canceled
        How many were.
    asked_for
        What was asked to be canceled: `batch_id` or `stop_task_id`.
    """
    parts.metrics.stops_canceled.inc(canceled)
    named = {name: str(value) for name, value in asked_for.items()}
    log.info("stops canceled", **named, stops=canceled)
