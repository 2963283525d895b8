"""How a worker keeps hold of a message: not at all, where the broker gives it away for good."""

from __future__ import annotations

from celery.worker.request import Request


class UnacknowledgedRequest(Request):
    """A message that was taken with `no_ack`, and so is never acknowledged.

    kombu 5.7 does not acknowledge it either, as long as its channel is open. Of a message whose
    channel was closed meanwhile it no longer knows that, and the attempt breaks on the channel's
    missing connection with an `AttributeError`, of which Celery's worker dies (seen with kombu and
    celery 5.7.0 when connections were cut while messages came in; `kombu/message.py`, `ack`).
    """

    def acknowledge(self) -> None:
        """Take note that there is nothing to do."""
        self.acknowledged = True
