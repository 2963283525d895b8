"""Celery's consumer, with a bound on how long it takes to be back after its broker is."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from celery.worker.consumer import Consumer


if TYPE_CHECKING:
    from kombu import Connection

RECONNECT_INTERVAL = 1
"""Seconds between a worker's tries to reach its broker.

kombu waits 2, 4, 6 … 32 s (`Connection._ensure_connection`), so that after a long outage a worker
would stand idle for half a minute. A try is one TCP connection.
"""


class PromptConsumer(Consumer):
    """A consumer that looks for its broker every `RECONNECT_INTERVAL` seconds."""

    def ensure_connected(self, conn: Connection) -> Connection:
        """Connect, however long it takes. Celery has no setting for the interval."""
        # A method is replaced on this one connection, as its caller gives no interval.
        conn.ensure_connection = partial(  # type: ignore[method-assign] # as said
            conn.ensure_connection,
            interval_start=RECONNECT_INTERVAL,
            interval_step=0,
            interval_max=RECONNECT_INTERVAL,
        )
        return super().ensure_connected(conn)
