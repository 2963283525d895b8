"""One stop's life between two turns: claiming it, and settling what a turn brought."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from shared.models.decisions import Standing, decide
from shared.models.errors import Fate
from shared.models.hosts import HostConnection, HostCredentials
from shared.models.states import StopState
from shared.models.turns import Refusal
from shared.storage.claims import claim_row, find_host_of, lock_claimed, write_decision
from shared.storage.dispatch import take_next_of_host
from shared.storage.host_standing import lock_host, note_reachable, note_unreachable


if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy.orm import Session

    from shared.models.turns import Claim, DueStop, TurnResult
    from shared.sealing import Sealer
    from shared.settings import Settings
    from shared.tables import VmHost


@dataclass(frozen=True, kw_only=True)
class ClaimedStop:
    """A claim, and the row of the host that it is on."""

    claim: Claim
    host: VmHost


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What settling did."""

    state: StopState
    wake: tuple[DueStop, ...]
    """Stops of the same host that may use the place now; send them after the commit."""


def claim_stop(
    session: Session, stop_task_id: UUID, *, worker: str, settings: Settings
) -> ClaimedStop | Refusal:
    """Claim a stop for this worker, within its host's cap and breaker.

    Any number of workers may try at the same moment: one gets it, until its lease runs out.
    """
    vm_host_id = find_host_of(session, stop_task_id, breaker_threshold=settings.breaker_threshold)
    if isinstance(vm_host_id, Refusal):
        return vm_host_id
    host = lock_host(session, vm_host_id, breaker_threshold=settings.breaker_threshold)
    if host.refusal is not None:
        return host.refusal
    claim = claim_row(session, stop_task_id, worker=worker, lease=timedelta(seconds=settings.lease))
    return Refusal.NOT_WAITING if claim is None else ClaimedStop(claim=claim, host=host.row)


def settle_stop(
    session: Session, claim: Claim, result: TurnResult, *, settings: Settings
) -> Settled | None:
    """Write down what a turn brought, and find who may use the place it leaves.

    None when the claim is worth nothing any more (I4): then nothing was changed.
    """
    host = lock_host(session, claim.vm_host_id, breaker_threshold=settings.breaker_threshold)
    locked = lock_claimed(session, claim)
    if locked is None:
        return None
    task, seconds_left = locked
    standing = Standing(
        attempt=task.attempt,
        failures=task.failures,
        confirmations=task.confirmations,
        seconds_left=seconds_left,
    )
    decision = decide(result, standing, settings)
    write_decision(session, task, result, decision)
    places = _note_answer(session, host.row, result, settings)
    wake = take_next_of_host(session, claim.vm_host_id, limit=places)
    return Settled(state=decision.state, wake=tuple(wake))


def _note_answer(session: Session, host: VmHost, result: TurnResult, settings: Settings) -> int:
    """Tell the breaker how the host did; gives how many of its stops to wake."""
    failure = result.failure
    if failure is not None and failure.fate in {Fate.UNREACHABLE, Fate.UNKNOWN}:
        # Also one that answers questions and lets force stops hang: each holds a slot for long.
        note_unreachable(
            session,
            host,
            failure.message,
            threshold=settings.breaker_threshold,
            cooldown=timedelta(seconds=settings.breaker_cooldown),
        )
        return 0
    was_asked = bool(result.exchanges)
    if host.unreachable_count > 0 and was_asked:
        note_reachable(session, host)
        return host.max_concurrent_stops
    return 1


def connection_of(host: VmHost, sealer: Sealer) -> HostConnection:
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
