"""A worker's turn, one call to the host at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

from workers import turns
from workers.drivers.errors import HostError
from workers.drivers.protocol import CallBounds
from workers.turns import Turn


if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.models.states import PowerState
    from shared.models.turns import Claim, Exchange, TurnResult
    from shared.settings import Settings
    from tests.support.model_host import ModelHost
    from tests.support.moved_clock import MovedClock
    from workers.drivers.protocol import Driver


class NotYetError(BaseException):
    """The turn waits for a call that has not happened. No `Exception`: a turn catches those."""


@dataclass(frozen=True)
class Event:
    """One call to the host, or one wait, that has happened."""

    answer: Any
    """What it gave, or the `HostError` that it raised."""
    exchanges: tuple[Exchange, ...]
    ended: float
    """`monotonic()` when it had."""


class SteppedTurn:
    """Takes a real `Turn` whose calls happen when the test says so.

    Between two calls anything may happen elsewhere. There is no thread: each step takes the turn
    from its beginning, gives it what was answered so far, and lets one more call happen.

    Parameters
    ----------
    claim, settings
        The turn's.
    host
        Where the calls go.
    clock
        The turn's clock; its waits move it.
    began
        `clock.monotonic()` from before the claim.
    before_stop
        Called before a force stop is sent, unless the turn's time is over.
    """

    def __init__(
        self,
        claim: Claim,
        settings: Settings,
        *,
        host: ModelHost,
        clock: MovedClock,
        began: float,
        before_stop: Callable[[Claim], None],
    ) -> None:
        self.claim = claim
        self._settings = settings
        self._host = host
        self._clock = clock
        self._began = began
        self._before_stop = before_stop
        self._past: list[Event] = []
        self._position = 0
        self._may_call = False
        self.told: list[PowerState] = []
        """What the host has said of the VM, in this turn."""
        self.result: TurnResult | None = None
        """How the turn ended; None while it has not."""

    def step(self, calls: int) -> None:
        """Let the next calls happen; none once the turn has ended."""
        for _ in range(calls):
            if self.result is None:
                self._step()

    def _step(self) -> None:
        self._position, self._may_call = 0, True
        # Only what `Turn` uses of a driver is there.
        driver = cast("Driver", self)
        turn = Turn(driver, self.claim, self._settings, began=self._began, sleep=self._sleep)
        try:
            with patch.object(turns, "time", self):
                self.result = turn.take()
        except NotYetError:
            return

    def finish(self) -> TurnResult:
        """Let all calls happen now, one right after the other."""
        while self.result is None:
            self._step()
        return self.result

    def monotonic(self) -> float:
        """Give the turn the time at which its last call ended."""
        return self._past[self._position - 1].ended

    def power_state(self, vm_uuid: str, bounds: CallBounds) -> PowerState:
        """Ask the host, or repeat what it said."""

        def ask(bounds: CallBounds) -> PowerState:
            self.told.append(self._host.power_state(vm_uuid, bounds))
            return self.told[-1]

        return cast("PowerState", self._next(ask, bounds))

    def force_stop(self, vm_uuid: str, bounds: CallBounds) -> None:
        """Send a force stop, or repeat what came of it."""

        def send(bounds: CallBounds) -> None:
            if self._clock.monotonic() < bounds.deadline:
                self._before_stop(self.claim)
            self._host.force_stop(vm_uuid, bounds)

        self._next(send, bounds)

    def seconds_of_doubt(self, vm_uuid: str, bounds: CallBounds) -> float:  # noqa: ARG002 - as in the protocol
        """Say that what is stopped stays so, as on dstack."""
        return 0.0

    def _sleep(self, seconds: float) -> None:
        bounds = CallBounds(deadline=self._began, record=lambda _: None)
        self._next(lambda _: self._clock.advance(max(1, round(seconds))), bounds)

    def _next(self, call: Callable[[CallBounds], object], bounds: CallBounds) -> object:
        if self._position == len(self._past):
            if not self._may_call:
                raise NotYetError
            self._may_call = False
            self._past.append(self._happen(call, bounds.deadline))
        event = self._past[self._position]
        self._position += 1
        for exchange in event.exchanges:
            bounds.record(exchange)
        if isinstance(event.answer, HostError):
            raise event.answer
        return event.answer

    def _happen(self, call: Callable[[CallBounds], object], deadline: float) -> Event:
        exchanges: list[Exchange] = []
        try:
            answer = call(CallBounds(deadline=deadline, record=exchanges.append))
        except HostError as error:
            answer = error
        return Event(answer, tuple(exchanges), self._clock.monotonic())
