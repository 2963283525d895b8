"""Flower: behind a password, and its ids are those of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from shared.broker import STOP_TASK
from tests.support.waiting import eventually


if TYPE_CHECKING:
    from tests.system.running_stack import RunningStack


def test_ids_that_flower_shows_are_known_to_the_api(stack: RunningStack) -> None:
    """And each says which CVM it is, and where, whether it was sent by the API or by a worker."""
    batch_id, _ = stack.batch_stop(stack.cvm_ids("acme")[:50])  # over the hosts' caps: some wait
    wanted = {task["id"] for task in stack.wait_until_ended(batch_id)}
    assert len(wanted) == 50
    facts = stack.facts

    def shown() -> dict[str, dict[str, str]]:
        answer = httpx.get(
            f"{facts['flower_url']}/api/tasks",
            params={"taskname": STOP_TASK},
            auth=(facts["flower_user"], facts["flower_password"]),
        )
        answer.raise_for_status()
        tasks: dict[str, dict[str, str]] = answer.json()
        return tasks

    eventually(lambda: wanted <= shown().keys())
    with stack.api() as client:
        for task_id, task in shown().items():
            stop = client.get(f"/api/v1/stop-tasks/{task_id}").json()
            assert stop["id"] == task_id
            assert task["args"] == f"{stop['cvm_id']} on {stop['host']}"
            assert task["kwargs"] == str({"request_id": stop["request_id"]})


def test_flower_wants_its_password(stack: RunningStack) -> None:
    url = stack.facts["flower_url"]
    for path in ("/", "/api/tasks", "/api/workers", "/workers"):
        assert httpx.get(f"{url}{path}").status_code == 401
        assert httpx.get(f"{url}{path}", auth=("operator", "guess")).status_code == 401
