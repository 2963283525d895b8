"""A dispatcher that hears nothing from beat runs its rounds by itself."""

from __future__ import annotations

import pytest

from shared.exceptions import DatabaseUnavailableError
from workers.ticks import TICKS_MISSED, Ticks


class Dispatcher:
    """Counts the rounds that are run without a tick."""

    def __init__(self) -> None:
        self.rounds = 0
        self.is_stopping = False
        self.is_database_away = False
        self.ticks = Ticks(self._run_round, is_stopping=lambda: self.is_stopping)

    def _run_round(self) -> None:
        self.rounds += 1
        if self.is_database_away:
            msg = "away"
            raise DatabaseUnavailableError(msg)

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.ticks.step()


@pytest.fixture
def dispatcher() -> Dispatcher:
    return Dispatcher()


def test_with_ticks_nothing_is_run(dispatcher: Dispatcher) -> None:
    for _ in range(3):
        dispatcher.ticks.note()
        dispatcher.steps(TICKS_MISSED)
    assert dispatcher.rounds == 0


def test_without_ticks_each_step_is_a_round_until_one_comes(dispatcher: Dispatcher) -> None:
    dispatcher.steps(TICKS_MISSED + 2)
    assert dispatcher.rounds == 3
    dispatcher.ticks.note()
    dispatcher.steps(TICKS_MISSED)
    assert dispatcher.rounds == 3


def test_the_database_is_away(dispatcher: Dispatcher) -> None:
    dispatcher.is_database_away = True
    dispatcher.steps(TICKS_MISSED + 1)
    assert dispatcher.rounds == 2


def test_one_that_was_told_to_end_runs_nothing(dispatcher: Dispatcher) -> None:
    dispatcher.is_stopping = True
    dispatcher.steps(2 * TICKS_MISSED)
    assert dispatcher.rounds == 0
