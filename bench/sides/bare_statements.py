"""The statements of a normal first turn, as text for bare psycopg.

The one place that knows which statements a worker's claim and settle are made of: they are those of
`shared.storage`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

from shared.models.states import AttemptOutcome, PowerState, StopState
from shared.storage.claims import _CLAIM, _LOCK_HOST_OF
from shared.storage.host_standing import BREAKER_THRESHOLD
from shared.storage.settling import _DECISION, _LOCK_CLAIMED


if TYPE_CHECKING:
    from uuid import UUID

    import psycopg

    from shared.storage.compiled import CompiledStatement

THRESHOLD = {BREAKER_THRESHOLD: 3}
LEASE = timedelta(seconds=75)


class Statement:
    """A statement's text with the values that are always the same."""

    def __init__(self, statement: CompiledStatement) -> None:
        self._text, self._values = statement.compiled

    def run(self, cursor: psycopg.Cursor[Any], **values: object) -> None:
        """Execute it, prepared."""
        cursor.execute(self._text, {**self._values, **values}, prepare=True)


LOCK_HOST_OF = Statement(_LOCK_HOST_OF)
CLAIM = Statement(_CLAIM)
LOCK_CLAIMED = Statement(_LOCK_CLAIMED)
DECISION = Statement(_DECISION)


@dataclass(frozen=True, kw_only=True)
class BareClaim:
    """What a turn needs of its claim."""

    stop: UUID
    host: UUID
    address: str
    attempt: int
    vm_uuid: str


def claim(connection: psycopg.Connection[Any], stop: UUID) -> BareClaim:
    """Claim a stop in one transaction; it is known to be free and its host to have room."""
    with connection.transaction(), connection.cursor() as cursor:
        LOCK_HOST_OF.run(cursor, stop=stop)
        host, _, _, address, _ = _one(cursor)
        CLAIM.run(cursor, stop=stop, host=host, by_worker="bare", lease=LEASE, **THRESHOLD)
        _, attempt, _, vm_uuid, *_ = _one(cursor)
    return BareClaim(stop=stop, host=host, address=address, attempt=attempt, vm_uuid=vm_uuid)


def settle(
    connection: psycopg.Connection[Any], claimed: BareClaim, exchanges: list[dict[str, Any]]
) -> None:
    """Write down in one transaction that a stop has succeeded, and find the next of the host."""
    with connection.transaction(), connection.cursor() as cursor:
        LOCK_CLAIMED.run(cursor, stop=claimed.stop, turn=claimed.attempt)
        _, _, _, cvm, *_ = _one(cursor)
        DECISION.run(
            cursor,
            stop=claimed.stop,
            turn=claimed.attempt,
            cvm=cvm,
            next_state=str(StopState.SUCCEEDED),
            closed=True,
            wait=timedelta(0),
            failed=0,
            confirmed=0,
            code=None,
            message=None,
            force_stopped=True,
            ended_in=str(AttemptOutcome.SUCCEEDED),
            seen=str(PowerState.STOPPED),
            is_there=True,
            is_down=True,
            exchanged=Jsonb(exchanges),
            host=claimed.host,
            places=1,
        )
        cursor.fetchall()


def _one(cursor: psycopg.Cursor[Any]) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = cursor.fetchone()
    if row is None:
        msg = "a statement that always finds a row found none"
        raise RuntimeError(msg)
    return row
