"""One stop's life between two turns: claiming it, and settling what a turn brought."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from psycopg.errors import LockNotAvailable

from shared.exceptions import HostBusyError
from shared.models.decisions import decide
from shared.models.errors import Fate
from shared.models.hosts import HostConnection, HostCredentials
from shared.models.states import StopState
from shared.storage.claims import claim_row, lock_host_of, put_back, why_not_now
from shared.storage.host_standing import note_reachable, note_unreachable
from shared.storage.settling import lock_claimed, write_decision


if TYPE_CHECKING:
    from uuid import UUID

    from psycopg import Connection

    from shared.models.errors import ErrorCode
    from shared.models.hosts import SealedHost
    from shared.models.states import AttemptOutcome
    from shared.models.turns import Claim, DueStop, Refusal, TurnResult
    from shared.sealing import Sealer
    from shared.settings import Settings
    from shared.storage.host_standing import LockedHost
    from shared.tables import VmHost


@dataclass(frozen=True, kw_only=True)
class ClaimedStop:
    """A claim, and how the host that it is on is reached."""

    claim: Claim
    host: SealedHost


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What settling did."""

    state: StopState
    outcome: AttemptOutcome
    """What the turn is written down as."""
    code: ErrorCode | None
    """Why the stop failed, or is tried again."""
    turn_error: ErrorCode | None
    """What ended the turn, unless it was well."""
    age: float
    """Seconds since the stop was accepted."""
    wake: tuple[DueStop, ...]
    """Stops of the same host that may use the place now; send them after the commit."""


def claim_stop(
    connection: Connection[Any], stop_task_id: UUID, *, worker: str, settings: Settings
) -> ClaimedStop | Refusal:
    """Claim a stop for this worker, within its host's cap and breaker.

    Any number of workers may try at the same moment: one gets it, until its lease runs out.

    Raises
    ------
    HostBusyError
        Somebody holds the host's row for longer than a claim waits; the transaction is of no more
        use.
    """
    try:
        return _claim(connection, stop_task_id, worker=worker, settings=settings)
    except LockNotAvailable:
        msg = "somebody holds the host's row in the database"
        raise HostBusyError(msg) from None


def _claim(
    connection: Connection[Any], stop_task_id: UUID, *, worker: str, settings: Settings
) -> ClaimedStop | Refusal:
    host = lock_host_of(connection, stop_task_id)
    if host is None:
        return why_not_now(connection, stop_task_id)
    claim = claim_row(
        connection,
        stop_task_id,
        host,
        worker=worker,
        lease=timedelta(seconds=settings.lease),
        breaker_threshold=settings.breaker_threshold,
    )
    if claim is None:
        return put_back(connection, stop_task_id, breaker_threshold=settings.breaker_threshold)
    return ClaimedStop(claim=claim, host=host.reached_by)


def settle_stop(
    connection: Connection[Any], claim: Claim, result: TurnResult, *, settings: Settings
) -> Settled | None:
    """Write down what a turn brought, and find who may use the place it leaves.

    None when the claim is worth nothing any more (I4): then nothing was changed.
    """
    stop = lock_claimed(connection, claim)
    if stop is None:
        return None
    decision = decide(result, stop.standing, settings)
    places = _note_answer(connection, stop.host, result, settings)
    wake = write_decision(connection, stop, result, decision, places=places)
    return Settled(
        state=decision.state,
        outcome=decision.outcome,
        code=decision.code,
        turn_error=None if result.failure is None else result.failure.code,
        age=stop.age,
        wake=tuple(wake),
    )


def _note_answer(
    connection: Connection[Any], host: LockedHost, result: TurnResult, settings: Settings
) -> int:
    """Tell the breaker how the host did; gives how many of its stops to wake."""
    failure = result.failure
    if failure is not None and failure.fate in {Fate.UNREACHABLE, Fate.UNKNOWN}:
        # Also one that answers questions and lets force stops hang: each holds a slot for long.
        note_unreachable(
            connection,
            host,
            failure.message,
            threshold=settings.breaker_threshold,
            cooldown=timedelta(seconds=settings.breaker_cooldown),
        )
        return 0
    was_asked = bool(result.exchanges)
    if host.has_not_answered and was_asked:
        note_reachable(connection, host)
        return host.max_concurrent_stops
    return 1


def connection_of(host: SealedHost | VmHost, sealer: Sealer) -> HostConnection:
    """Open a host's credentials.

    Raises
    ------
    SealError
        They were sealed with a key that is not in `CVMSTOP_SEALING_KEYS` any more.
    """
    credentials = HostCredentials()
    if host.sealed_credentials is not None:
        credentials = HostCredentials.model_validate_json(sealer.open(host.sealed_credentials))
    return HostConnection(
        name=host.name, driver=host.driver, address=host.address, credentials=credentials
    )
