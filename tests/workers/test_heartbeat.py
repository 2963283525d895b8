"""When a process gives itself up, step by step; tests/system/test_liveness.py has real ones."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from shared.exceptions import BrokerUnavailableError
from workers.heartbeat import EXIT_STATUS, Heartbeat
from workers.pool import WakingThreadPool


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shared.settings import Settings

PATIENCE = 6
"""Heartbeats of 5 s in a time-out of 30 s."""


class Process:
    """A process under watch, with one heartbeat a step."""

    def __init__(self, settings: Settings, pool: WakingThreadPool) -> None:
        self.sent = 0
        self.is_broker_away = False
        self.is_stopping = False
        self.ended: list[int] = []
        self.heartbeat = Heartbeat(
            settings,
            send=self._send,
            pool=pool,
            is_stopping=lambda: self.is_stopping,
            end=self.ended.append,
        )

    def _send(self) -> None:
        if self.is_broker_away:
            msg = "away"
            raise BrokerUnavailableError(msg)
        self.sent += 1

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.heartbeat.step()


@pytest.fixture
def pool() -> Iterator[WakingThreadPool]:
    made = WakingThreadPool(2)
    yield made
    made.on_stop()


@pytest.fixture
def process(settings: Settings, pool: WakingThreadPool) -> Process:
    return Process(settings, pool)


def test_every_heartbeat_is_answered(process: Process) -> None:
    for _ in range(3 * PATIENCE):
        process.steps(1)
        process.heartbeat.note_work()
    assert process.sent == 3 * PATIENCE
    assert process.ended == []


def test_none_is_answered(process: Process) -> None:
    process.steps(PATIENCE)
    assert process.ended == []
    process.steps(1)
    assert process.ended == [EXIT_STATUS]
    assert process.sent == PATIENCE


def test_any_task_counts_as_an_answer(process: Process) -> None:
    process.steps(PATIENCE)
    process.heartbeat.note_work()
    process.steps(PATIENCE)
    assert process.ended == []


def test_the_count_begins_anew_while_the_broker_is_away(process: Process) -> None:
    process.steps(PATIENCE)
    process.heartbeat.note_work()
    process.is_broker_away = True
    process.steps(10 * PATIENCE)
    process.is_broker_away = False
    process.steps(PATIENCE)
    assert process.ended == []
    process.steps(1)
    assert process.ended == [EXIT_STATUS]


def test_the_count_begins_anew_while_no_slot_is_free(
    process: Process, pool: WakingThreadPool
) -> None:
    end = threading.Event()
    for _ in range(pool.limit):
        pool.on_apply(end.wait, (10,), {})
    process.steps(10 * PATIENCE)
    assert (process.sent, process.ended) == (0, [])  # nothing piles up behind the turns
    end.set()
    pool.wait_until_idle(10)
    process.steps(PATIENCE)
    assert process.ended == []


def test_one_free_slot_is_enough_to_judge(process: Process, pool: WakingThreadPool) -> None:
    end = threading.Event()
    pool.on_apply(end.wait, (10,), {})
    threading.Timer(0.1, end.set).start()
    process.steps(PATIENCE + 1)
    assert end.is_set()  # the turn was waited for
    assert process.ended == [EXIT_STATUS]


def test_turns_are_waited_for_no_longer_than_they_may_take(
    settings: Settings, pool: WakingThreadPool
) -> None:
    end = threading.Event()
    process = Process(settings.model_copy(update={"turn_limit": 0.05}), pool)
    pool.on_apply(end.wait, (10,), {})
    process.steps(PATIENCE + 1)
    assert process.ended == [EXIT_STATUS]
    assert pool.running == 1
    end.set()


def test_what_consumes_again_while_turns_end_goes_on(
    process: Process, pool: WakingThreadPool
) -> None:
    pool.on_apply(process.heartbeat.note_work, (), {})
    pool.wait_until_idle(10)
    process.steps(1)
    end = threading.Event()

    def turn() -> None:
        end.wait(10)
        process.heartbeat.note_work()

    pool.on_apply(turn, (), {})
    threading.Timer(0.1, end.set).start()
    process.steps(PATIENCE)
    assert end.is_set()
    process.steps(PATIENCE)
    assert process.ended == []


def test_one_that_was_told_to_end_is_left_alone(process: Process) -> None:
    process.is_stopping = True
    process.steps(10 * PATIENCE)
    assert (process.sent, process.ended) == (0, [])


class TestFile:
    def test_it_is_touched_when_work_came_through(
        self, settings: Settings, pool: WakingThreadPool, tmp_path: Path
    ) -> None:
        file = tmp_path / "heartbeat"
        process = Process(settings.model_copy(update={"heartbeat_file": file}), pool)
        process.steps(2)
        assert not file.exists()
        process.heartbeat.note_work()
        process.steps(1)
        assert file.exists()

    def test_one_that_cannot_be_written_ends_nothing(
        self, settings: Settings, pool: WakingThreadPool, tmp_path: Path
    ) -> None:
        nowhere = tmp_path / "missing" / "heartbeat"
        process = Process(settings.model_copy(update={"heartbeat_file": nowhere}), pool)
        process.heartbeat.note_work()
        process.steps(2)
        assert process.sent == 2
