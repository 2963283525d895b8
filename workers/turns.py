"""One worker's turn with one stop, as a host sees it. No database here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from shared.failpoints import Failpoint, reach
from shared.models.errors import ErrorCode, Fate
from shared.models.states import PowerState
from shared.models.turns import Exchange, Failure, TurnResult
from workers.drivers.errors import FinalHostError, HostError
from workers.drivers.protocol import CallBounds


if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.models.turns import Claim
    from shared.settings import Settings
    from workers.drivers.protocol import Driver


log = structlog.get_logger(__name__)


def internal_failure(error: Exception) -> Failure:
    """Say that a fault of our own ended a turn."""
    return Failure(
        code=ErrorCode.INTERNAL,
        fate=Fate.TRANSIENT,
        message=f"a fault in cvmstop ({type(error).__name__}); the worker's log has it",
    )


class Turn:
    """Ask, force stop if need be (once at most), look whether the VM is down.

    Parameters
    ----------
    driver
        The host's driver.
    claim
        The stop to work on.
    settings
        Gives the turn's limit and the intervals.
    began
        `time.monotonic()` from before the claim: the turn's limit counts from there, so that a
        worker that was held up anywhere since then sends nothing once its lease has run out.
    sleep
        Waits between two looks; tests give their own.
    tell
        Is told of each exchange once it is over.
    """

    def __init__(
        self,
        driver: Driver,
        claim: Claim,
        settings: Settings,
        *,
        began: float,
        sleep: Callable[[float], None] = time.sleep,
        tell: Callable[[Exchange], None] | None = None,
    ) -> None:
        self._driver = driver
        self._claim = claim
        self._settings = settings
        self._sleep = sleep
        self._tell = tell
        self._exchanges: list[Exchange] = []
        self._bounds = CallBounds(deadline=began + settings.turn_limit, record=self._record)
        self._seen: PowerState | None = None
        self._force_stopped = False

    def take(self) -> TurnResult:
        """Take the turn, within `turn_limit`.

        Whatever goes wrong is a result, so that it is written down with what was sent.
        """
        try:
            return self._take()
        except HostError as error:
            return self._result(failure=error.as_failure())
        except Exception as error:
            log.exception("turn broke", attempt=self._claim.attempt)
            return self._result(failure=internal_failure(error))

    def _record(self, exchange: Exchange) -> None:
        self._exchanges.append(exchange)
        log.debug(
            "host asked",
            request=exchange.request,
            answer=exchange.answer,
            seconds=round(exchange.seconds, 4),
        )
        if self._tell is not None:
            self._tell(exchange)

    def _take(self) -> TurnResult:
        before = self._ask()
        if before.is_down:
            return self._result(is_down=True)
        if not self._wants_force_stop(before):
            return self._look_until_down(before)
        refusal = self._force_stop()
        reach(Failpoint.WORKER_FORCE_STOPPED)
        after = self._ask()
        if refusal is not None and not after.is_down and after is not PowerState.STOPPING:
            return self._result(failure=refusal)
        # Otherwise an error of StopVm does not mean that nothing was killed: a kill that is in
        # flight already is an error too, and so is a clean-up that fails after the kill.
        return self._look_until_down(before)

    def _ask(self) -> PowerState:
        self._seen = self._driver.power_state(self._claim.vm_uuid, self._bounds)
        return self._seen

    def _wants_force_stop(self, state: PowerState) -> bool:
        """Whether to send StopVm now.

        `exited` wants one too: only that keeps the host from starting the VM again. A VM that is
        `stopping` may be so for ever (its stop met its start), which another StopVm mends; one
        being removed ends by itself.
        """
        if state is PowerState.REMOVING:
            return False
        if state is PowerState.STOPPING:
            since = self._claim.seconds_since_force_stop
            return since is None or since >= self._settings.reissue_after
        return True

    def _force_stop(self) -> Failure | None:
        """Send StopVm once. Gives the error to report if the VM turns out not to be stopping."""
        log.info("force stop", vm_uuid=self._claim.vm_uuid, attempt=self._claim.attempt)
        try:
            self._driver.force_stop(self._claim.vm_uuid, self._bounds)
        except FinalHostError:
            raise
        except HostError as error:
            if error.fate is Fate.UNREACHABLE:
                raise
            self._force_stopped = error.fate is Fate.UNKNOWN
            return error.as_failure()
        self._force_stopped = True
        return None

    def _look_until_down(self, before: PowerState) -> TurnResult:
        """Look for `look_seconds` whether the VM is down. What was seen last is in `_seen`."""
        end = min(time.monotonic() + self._settings.look_seconds, self._bounds.deadline)
        state = self._seen or before
        while not state.is_down and time.monotonic() < end:
            self._sleep(self._settings.look_interval)
            state = self._ask()
        if state.is_down:
            return self._result(is_down=True, look_again_after=self._doubt(before, state) or None)
        if self._force_stopped and state in {PowerState.RUNNING, PowerState.EXITED}:
            return self._result(
                failure=Failure(
                    code=ErrorCode.STILL_RUNNING,
                    fate=Fate.TRANSIENT,
                    message=f"the host took the force stop, and reports the VM {state} again",
                )
            )
        return self._result()

    def _doubt(self, before: PowerState, state: PowerState) -> float:
        """Give the seconds until a VM that came down in this turn is looked at again; 0: not."""
        guard = self._settings.restart_guard
        if guard == 0:
            return 0
        if before is PowerState.EXITED and state is PowerState.STOPPED:
            return guard
        return self._driver.seconds_of_doubt(self._claim.vm_uuid, self._bounds)

    def _result(
        self,
        *,
        is_down: bool = False,
        look_again_after: float | None = None,
        failure: Failure | None = None,
    ) -> TurnResult:
        return TurnResult(
            power_state=self._seen,
            is_down=is_down,
            look_again_after=look_again_after,
            force_stopped=self._force_stopped,
            failure=failure,
            exchanges=tuple(self._exchanges),
        )
