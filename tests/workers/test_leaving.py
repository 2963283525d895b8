"""When a process that was told to end is ended; tests/system/test_liveness.py has a real one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

import pytest
from celery.worker import state

from workers.leaving import IDLE_STEPS, Leaving, is_told_to_end


if TYPE_CHECKING:
    from workers.pool import WakingThreadPool


class Process:
    """A process under watch; it is its own pool."""

    def __init__(self) -> None:
        self.running = 0
        self.is_told = True
        self.ended: list[int] = []
        self.leaving = Leaving(
            cast("WakingThreadPool", self), is_told=lambda: self.is_told, end=self.ended.append
        )

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.leaving.step()


@pytest.fixture
def process() -> Process:
    return Process()


def test_one_that_hangs_is_ended(process: Process) -> None:
    process.steps(IDLE_STEPS - 1)
    assert process.ended == []
    process.steps(1)
    assert process.ended == [os.EX_OK]


def test_one_that_was_not_told_goes_on(process: Process) -> None:
    process.is_told = False
    process.steps(3 * IDLE_STEPS)
    assert process.ended == []


def test_turns_are_let_end_and_the_count_begins_anew(process: Process) -> None:
    process.steps(IDLE_STEPS - 1)
    process.running = 1
    process.steps(3 * IDLE_STEPS)
    process.running = 0
    process.steps(IDLE_STEPS - 1)
    assert process.ended == []
    process.steps(1)
    assert process.ended == [os.EX_OK]


@pytest.mark.parametrize("name", ["should_stop", "should_terminate"])
@pytest.mark.parametrize(
    ("value", "told"), [(None, False), (False, False), (os.EX_OK, True), (True, True)]
)
def test_what_celery_notes(
    monkeypatch: pytest.MonkeyPatch, name: str, value: int | None, *, told: bool
) -> None:
    monkeypatch.setattr(state, "should_stop", None)
    monkeypatch.setattr(state, "should_terminate", None)
    monkeypatch.setattr(state, name, value)
    assert is_told_to_end() is told
