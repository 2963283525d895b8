"""What becomes of a stop after a turn: the rules, without any I/O."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.models.errors import ErrorCode, Fate
from shared.models.states import AttemptOutcome, StopState


if TYPE_CHECKING:
    from shared.models.turns import Failure, TurnResult
    from shared.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the row of a claimed stop says when its turn ends."""

    attempt: int
    failures: int
    confirmations: int
    seconds_left: float
    """Until the deadline; negative once it has passed."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The next state of a stop, and what its attempt is written down as."""

    state: StopState
    outcome: AttemptOutcome
    wait: float = 0.0
    """Seconds until a worker is to be woken, while the state waits for one."""
    code: ErrorCode | None = None
    message: str | None = None
    failures: int
    confirmations: int


def decide(result: TurnResult, standing: Standing, settings: Settings) -> Decision:
    """Decide what becomes of a stop after a turn.

    The host's word that the VM is down is success, however late (I5). Otherwise a final failure
    fails the stop, and so does a transient one too many, or the deadline.
    """
    if result.is_down:
        if result.look_again_after is None or result.look_again_after >= standing.seconds_left:
            return Decision(
                state=StopState.SUCCEEDED,
                outcome=AttemptOutcome.SUCCEEDED,
                failures=standing.failures,
                confirmations=standing.confirmations,
            )
        return _confirm(result, standing, wait=result.look_again_after)
    if result.failure is not None:
        return _after_failure(result.failure, standing, settings)
    if standing.seconds_left <= 0:
        state = result.power_state or "unknown"
        return _fail(
            standing,
            ErrorCode.DEADLINE_EXCEEDED,
            f"not confirmed before the deadline: the host still reports the VM {state}",
        )
    wait = _grow(settings.confirm_interval, settings.confirm_interval_max, standing.confirmations)
    return _confirm(result, standing, wait=wait)


def _confirm(result: TurnResult, standing: Standing, *, wait: float) -> Decision:
    return Decision(
        state=StopState.CONFIRMING,
        outcome=AttemptOutcome.CONFIRMING,
        wait=min(wait, max(standing.seconds_left, 0)),
        failures=standing.failures,
        confirmations=0 if result.force_stopped else standing.confirmations + 1,
    )


def _after_failure(failure: Failure, standing: Standing, settings: Settings) -> Decision:
    failures = standing.failures + (failure.fate is Fate.TRANSIENT)
    if failure.fate is Fate.FINAL or failures >= settings.stop_max_failures:
        return _fail(standing, failure.code, failure.message, failures=failures)
    if standing.seconds_left <= 0:
        message = f"not confirmed before the deadline; the last try: {failure.message}"
        return _fail(standing, ErrorCode.DEADLINE_EXCEEDED, message, failures=failures)
    if failure.fate is Fate.UNKNOWN:
        state = StopState.CONFIRMING
        times = standing.confirmations
        wait = _grow(settings.confirm_interval, settings.confirm_interval_max, times)
    else:
        state = StopState.SCHEDULED
        tries = failures - 1 if failure.fate is Fate.TRANSIENT else standing.attempt - 1
        wait = _grow(settings.retry_backoff, settings.retry_backoff_max, tries)
        # Jitter: stops that failed together do not come back together.
        wait *= random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
    return Decision(
        state=state,
        outcome=AttemptOutcome.RETRY,
        wait=min(wait, standing.seconds_left),
        code=failure.code,
        message=failure.message,
        failures=failures,
        confirmations=standing.confirmations + 1,
    )


def _fail(
    standing: Standing, code: ErrorCode, message: str, *, failures: int | None = None
) -> Decision:
    return Decision(
        state=StopState.FAILED,
        outcome=AttemptOutcome.FAILED,
        code=code,
        message=message,
        failures=standing.failures if failures is None else failures,
        confirmations=standing.confirmations,
    )


def _grow(first: float, longest: float, times: int) -> float:
    """Double `first` `times` times, up to `longest`."""
    return float(min(longest, first * 2 ** min(times, 30)))
