"""One failure, found from each end: Flower, a log line, the CVM, the host, the batch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.waiting import eventually
from tests.system.test_operator import cvmstop


if TYPE_CHECKING:
    from tests.system.running_stack import RunningStack

REFUSING = {"faults": [{"kind": "unauthorized"}]}
"""How a VM behaves whose host answers 401 for it: a final failure."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What somebody may begin with: no end of it is taken from the API."""

    cvm_id: str
    vm_uuid: str
    host: str
    batch_id: str
    began_at: datetime
    """What is older is another test's."""
    stack: RunningStack

    def must_be(self, task: dict[str, Any]) -> None:
        """Fail unless it is this one that was found."""
        assert (task["cvm_id"], task["vm_uuid"]) == (self.cvm_id, self.vm_uuid)
        assert (task["host"], task["batch_id"]) == (self.host, self.batch_id)
        assert (task["state"], task["error_code"]) == ("failed", "credentials_refused")

    def find(self, path: str, **params: str) -> Any:
        """Ask the API as a member of the workspace."""
        with self.stack.api("user_key") as client:
            answer = client.get(f"/api/v1/{path}", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def failure(stack: RunningStack) -> Failure:
    """Let a stop fail: its host answers 401."""
    cvm_id = stack.cvm_ids("acme")[-1]
    query = (
        "SELECT address, vm_hosts.name, vm_uuid FROM cvms"
        " JOIN vm_hosts ON vm_hosts.id = vm_host_id WHERE hash_id = %s"
    )
    ((address, host, vm_uuid),) = stack.rows(query, cvm_id)
    vm = f"{address}/simulator/vms/{vm_uuid}"
    httpx.patch(vm, json={"behaviour": REFUSING}).raise_for_status()
    began_at = datetime.now(UTC)
    try:
        batch_id, _ = stack.batch_stop([cvm_id], "user_key")
        stack.wait_until_ended(batch_id)
    finally:
        httpx.patch(vm, json={"behaviour": None}).raise_for_status()
    return Failure(
        cvm_id=cvm_id,
        vm_uuid=vm_uuid,
        host=host,
        batch_id=batch_id,
        began_at=began_at,
        stack=stack,
    )


def test_from_the_id_in_flower(failure: Failure) -> None:
    facts = failure.stack.facts
    login = (facts["flower_user"], facts["flower_password"])

    def seen() -> list[str]:
        """Give the tasks that Flower shows of which the result is that the stop has failed."""
        answer = httpx.get(f"{facts['flower_url']}/api/tasks", auth=login)
        tasks: dict[str, dict[str, Any]] = answer.raise_for_status().json()
        since = failure.began_at.timestamp()
        return [
            task
            for task, shown in tasks.items()
            if shown["result"] == "'failed'" and shown["received"] > since
        ]

    (task_id,) = eventually(seen)
    page = httpx.get(f"{facts['flower_url']}/task/{task_id}", auth=login).raise_for_status()
    assert task_id in page.text
    info = httpx.get(f"{facts['flower_url']}/api/task/info/{task_id}", auth=login)
    assert info.raise_for_status().json()["uuid"] == task_id
    failure.must_be(failure.find(f"stop-tasks/{task_id}"))
    # And by the command, with what the host answered.
    status, shown, _ = cvmstop(failure.stack, "failures", "show", task_id)
    assert status == 0
    failure.must_be(shown)
    assert shown["attempt_log"][0]["exchanges"][0]["answer"].startswith("401")


def test_from_a_log_lines_request_id(failure: Failure) -> None:
    log = (failure.stack.root / "logs" / "worker.log").read_text()
    # Celery's banner is no log line.
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    (line,) = [
        line
        for line in lines
        if line["event"] == "turn ended"
        and line["state"] == "failed"
        and datetime.fromisoformat(line["timestamp"]) > failure.began_at
    ]
    assert line["host"] == failure.host
    (task,) = failure.find("stop-tasks", request_id=line["request_id"])["items"]
    failure.must_be(task)
    status, found, _ = cvmstop(
        failure.stack, "failures", "list", "--request-id", line["request_id"]
    )
    assert status == 0
    failure.must_be(found[0])


def test_from_the_cvm(failure: Failure) -> None:
    tasks = failure.find("stop-tasks", cvm_id=failure.cvm_id, state="failed")["items"]
    failure.must_be(tasks[0])


def test_from_the_host(failure: Failure) -> None:
    """By its groups, which show one of each."""
    status, found, _ = cvmstop(failure.stack, "failures", "list", "--group", "--host", failure.host)
    assert status == 0
    (group,) = [each for each in found["groups"] if each["error_code"] == "credentials_refused"]
    failure.must_be(failure.find(f"stop-tasks/{group['sample_id']}"))
    assert "401" in group["sample_message"]


def test_from_the_batch(failure: Failure) -> None:
    (task,) = failure.find(f"batches/{failure.batch_id}")["tasks"]
    failure.must_be(task)
    status, batch, _ = cvmstop(failure.stack, "batches", "show", failure.batch_id)
    assert status == 0
    failure.must_be(batch["tasks"][0])
