"""The least that accepting 50 stops takes: one statement, one commit, one trip to the broker.

No web framework, and nothing is checked. The statement flips 50 rows and writes 51; a statement by
itself is a transaction, so that it takes one trip. The messages are laid out as kombu does, and
were made before.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
from redis import Redis

from shared.broker import STOPS_QUEUE, Broker, make_celery
from shared.models.batches import MAX_BATCH
from shared.models.turns import DueStop


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.ground import Ground

ACCEPT = b"""
WITH batch AS (
    INSERT INTO stop_batches
        (workspace_id, user_id, api_key_id, by_admin, request_id, total, stopped, skipped, errors)
    VALUES (%(workspace)s, %(user)s, %(key)s, false, 'floor', 50, 50, 0, '[]')
    RETURNING id
), flipped AS (
    UPDATE cvms SET in_progress = true, updated_at = now()
    WHERE hash_id = ANY(%(ids)s)
    RETURNING id, workspace_id, vm_host_id, vm_uuid
)
INSERT INTO stop_tasks
    (batch_id, cvm_id, workspace_id, vm_host_id, vm_uuid, request_id, deadline_at, sent_at)
SELECT batch.id, flipped.id, flipped.workspace_id, flipped.vm_host_id, flipped.vm_uuid, 'floor',
       now() + interval '15 minutes', now()
FROM flipped, batch
"""


class Floor:
    """Kept connections to both servers, and messages that are ready.

    Parameters
    ----------
    ground
        Where both are, and who asks.
    database
        Commits each statement by itself.
    broker
        Where the messages go.
    """

    def __init__(
        self, ground: Ground, database: psycopg.Connection[tuple[object, ...]], broker: Redis
    ) -> None:
        self._database = database
        self._broker = broker
        self._messages = _make_messages(ground, broker)
        self._asks = {
            "workspace": ground.caller.workspace_id,
            "user": ground.caller.user_id,
            "key": ground.caller.api_key_id,
        }

    def accept(self, ids: Sequence[str]) -> float:
        """Accept the stops of 50 CVMs that are not in progress; gives the seconds it took."""
        values = {**self._asks, "ids": list(ids)}
        began = time.perf_counter()
        written = self._database.execute(ACCEPT, values, prepare=True).rowcount
        pipeline = self._broker.pipeline(transaction=False)
        for message in self._messages:
            pipeline.lpush(STOPS_QUEUE, message)
        pipeline.execute()
        took = time.perf_counter() - began
        if written != len(ids):
            msg = f"{written} of {len(ids)} stops were accepted"
            raise RuntimeError(msg)
        return took


@contextmanager
def open_floor(ground: Ground) -> Iterator[Floor]:
    """Connect to both servers until the block ends."""
    with (
        psycopg.connect(ground.database_url, autocommit=True) as database,
        Redis.from_url(ground.broker_url) as broker,
    ):
        yield Floor(ground, database, broker)


def _make_messages(ground: Ground, broker: Redis) -> list[bytes]:
    """Have cvmstop's own broker send 50 messages, and take them from the queue."""
    sender = Broker(make_celery(ground.settings))
    sender.send_stops(
        [
            DueStop(
                stop_task_id=uuid4(), request_id="floor", cvm_id=f"cvm_{number:020}", host="floor"
            )
            for number in range(MAX_BATCH)
        ]
    )
    sender.close()
    found = broker.lrange(STOPS_QUEUE, 0, -1)
    assert isinstance(found, list)  # noqa: S101 - of a client that does not wait in a coroutine
    broker.delete(STOPS_QUEUE)
    return [message for message in found if isinstance(message, bytes)]
