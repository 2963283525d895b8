"""The purge as a Celery task: where it runs, how often, and not twice at once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

import workers.tasks
from shared.broker import (
    DISPATCH_TASK,
    HOUSEKEEPING_QUEUE,
    PURGE_TASK,
    SYNC_DUE_TASK,
    WEBHOOKS_TASK,
)
from shared.exceptions import DatabaseUnavailableError
from shared.storage.purging import Purged
from tests.support.waiting import eventually
from tests.support.worker_process import running_worker
from tests.workers.test_purge import accept, grow_old, left
from workers.app import make_schedule
from workers.tasks import PURGE_DATABASE_AWAY, PURGE_UNDER_WAY


if TYPE_CHECKING:
    from pathlib import Path

    from shared.settings import Settings
    from tests.shared.conftest import Yard


@pytest.fixture
def task(idle_tasks: Any) -> Any:
    return idle_tasks[PURGE_TASK]


def test_beat_sends_it_to_the_housekeeping_queue(settings: Settings) -> None:
    schedule = make_schedule(settings)
    assert {name: (each["task"], each["schedule"]) for name, each in schedule.items()} == {
        "dispatch": (DISPATCH_TASK, settings.dispatch_interval),
        "purge": (PURGE_TASK, 60),
        "webhooks": (WEBHOOKS_TASK, 1),
        "sync_due": (SYNC_DUE_TASK, 1),
    }
    assert [each["options"] for each in schedule.values()] == [{"queue": HOUSEKEEPING_QUEUE}] * 4


def test_it_says_what_it_did(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.tasks, "run_purge", lambda *_: Purged(batches=2, stops=70))
    assert task() == "deleted batches: 2, stops: 70"


def test_the_database_is_away(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Purged:
        msg = "away"
        raise DatabaseUnavailableError(msg)

    monkeypatch.setattr(workers.tasks, "run_purge", fail)
    assert task() == PURGE_DATABASE_AWAY
    assert task() == PURGE_DATABASE_AWAY


def test_a_second_one_in_a_process_leaves_its_slot_at_once(
    task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or messages that piled up would hold every slot, and the dispatcher with them."""
    began, go_on = threading.Event(), threading.Event()

    def take_long(*_: object) -> Purged:
        began.set()
        assert go_on.wait(30)
        return Purged()

    monkeypatch.setattr(workers.tasks, "run_purge", take_long)
    first = threading.Thread(target=task)
    first.start()
    assert began.wait(30)
    monkeypatch.setattr(workers.tasks, "run_purge", lambda *_: Purged())
    assert task() == PURGE_UNDER_WAY
    go_on.set()
    first.join()
    assert task() == f"deleted {Purged()}"


def test_in_a_real_worker(yard: Yard, valkey: str, tmp_path: Path) -> None:
    accept(yard, 0)
    grow_old(yard)
    options = ("-Q", HOUSEKEEPING_QUEUE, "-c", "2")
    with running_worker(yard.settings, valkey, tmp_path / "log", *options) as worker:
        worker.app.send_task(PURGE_TASK, queue=HOUSEKEEPING_QUEUE)
        eventually(lambda: left(yard) == (0, 0, 0))
        worker.wait_for_log("purged")
