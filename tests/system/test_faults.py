"""Whatever is stopped or dies: requests are accepted, stops are carried out, and it comes back."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from tests.support.waiting import eventually


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.system.running_stack import RunningStack

ANSWER_TIMEOUT = 2.0
"""Seconds within which the API accepts a batch while the broker is away (DESIGN.md, I7)."""


@pytest.fixture
def cvm_ids(stack: RunningStack) -> list[str]:
    """Give CVMs that run, on all three hosts."""
    chosen = stack.cvm_ids("acme")[:24]
    stack.start_vms(chosen)
    return chosen


@pytest.fixture
def slow_hosts(stack: RunningStack) -> Iterator[None]:
    """Make a turn take more than two seconds."""
    stack.change_hosts(stop_seconds=2)
    yield
    stack.change_hosts(stop_seconds=1)


def _assert_all_stopped(stack: RunningStack, batch_id: str, cvm_ids: Sequence[str]) -> None:
    tasks = stack.wait_until_ended(batch_id)
    assert {(task["cvm_id"], task["state"]) for task in tasks} == {
        (cvm_id, "succeeded") for cvm_id in cvm_ids
    }


def _wait_for_another(stack: RunningStack, process: str, old: int) -> None:
    eventually(lambda: stack.pid(process) != old)


def test_broker_frozen(stack: RunningStack, cvm_ids: list[str]) -> None:
    stack.signal("valkey", signal.SIGSTOP)
    try:
        batch_id, body = stack.batch_stop(cvm_ids, timeout=ANSWER_TIMEOUT)
    finally:
        stack.signal("valkey", signal.SIGCONT)
    assert body["stopped"] == len(cvm_ids)
    _assert_all_stopped(stack, batch_id, cvm_ids)


def test_broker_killed(stack: RunningStack, cvm_ids: list[str]) -> None:
    old = stack.signal("valkey", signal.SIGKILL)
    batch_id, body = stack.batch_stop(cvm_ids, timeout=ANSWER_TIMEOUT)
    assert body["stopped"] == len(cvm_ids)
    _wait_for_another(stack, "valkey", old)
    _assert_all_stopped(stack, batch_id, cvm_ids)


@pytest.mark.usefixtures("slow_hosts")
def test_worker_that_is_told_to_end_finishes_its_turns(
    stack: RunningStack, cvm_ids: list[str]
) -> None:
    batch_id, _ = stack.batch_stop(cvm_ids)
    open_turns = "SELECT stop_task_id FROM stop_attempts WHERE outcome = 'running'"
    eventually(lambda: len(stack.rows(open_turns)) >= 8)
    old = stack.signal("worker", signal.SIGTERM)
    _wait_for_another(stack, "worker", old)
    # None was cut off: that would show as an expired lease, 75 s later.
    assert stack.rows(
        "SELECT count(*) FROM stop_attempts JOIN stop_tasks ON stop_tasks.id = stop_task_id"
        " WHERE batch_id = %s AND outcome = 'succeeded'",
        batch_id,
    ) >= [(8,)]
    _assert_all_stopped(stack, batch_id, cvm_ids)
    assert {task["attempts"] for task in stack.wait_until_ended(batch_id)} == {1}


def test_what_dies_is_started_again(stack: RunningStack, cvm_ids: list[str]) -> None:
    dying = ["api", "worker", "dispatcher", "beat", "flower", "simulated-host-1"]
    hosts = stack.facts["hosts"]
    old = {name: stack.signal(name, signal.SIGKILL) for name in dying}
    for name, pid in old.items():
        _wait_for_another(stack, name, pid)
    eventually(lambda: _answers(f"{stack.facts['api_url']}/health/ready"))
    assert stack.facts["hosts"] == hosts
    batch_id, _ = stack.batch_stop(cvm_ids)
    _assert_all_stopped(stack, batch_id, cvm_ids)
    assert all(psutil.pid_exists(pid) for pid in stack.facts["processes"].values())


def test_database_killed(stack: RunningStack, cvm_ids: list[str]) -> None:
    batch_id, _ = stack.batch_stop(cvm_ids)
    old = stack.signal("postgresql", signal.SIGKILL)
    _wait_for_another(stack, "postgresql", old)
    _assert_all_stopped(stack, batch_id, cvm_ids)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False
