"""A whole stack keeps its inventory true by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx

from tests.support.waiting import eventually


if TYPE_CHECKING:
    from tests.system.running_stack import RunningStack


def cvm(stack: RunningStack, cvm_id: str) -> dict[str, Any]:
    with stack.api("user_key") as client:
        answer = client.get(f"/api/v1/cvms/{cvm_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_vm_that_is_started_behind_our_back_is_drift(stack: RunningStack) -> None:
    cvm_id = stack.cvm_ids("acme")[-1]
    batch_id, _ = stack.batch_stop([cvm_id], "user_key")
    (task,) = stack.wait_until_ended(batch_id)
    assert task["state"] == "succeeded"
    assert cvm(stack, cvm_id)["status"] == "stopped"
    stack.start_vms([cvm_id])
    drift = eventually(lambda: cvm(stack, cvm_id)["drift"])
    assert drift["stop_task_id"] == task["id"]
    found = cvm(stack, cvm_id)
    assert (found["status"], found["host"]) == ("running", drift["host"])
    with stack.api("user_key") as client:
        listed = client.get("/api/v1/cvms", params={"drifted": True}).json()["items"]
    assert cvm_id in {item["id"] for item in listed}
    batch_id, _ = stack.batch_stop([cvm_id], "user_key")
    stack.wait_until_ended(batch_id)
    assert cvm(stack, cvm_id)["drift"] is None


def test_vms_that_nobody_knows_are_listed(stack: RunningStack) -> None:
    vm_id = str(uuid4())
    address = stack.facts["hosts"][0]["url"]
    body = {"id": vm_id, "name": "stranger", "status": "running"}
    httpx.post(f"{address}/simulator/vms", json=body).raise_for_status()
    query = "SELECT name, power_state FROM unassigned_vms WHERE vm_uuid = %s"
    assert eventually(lambda: stack.rows(query, vm_id)) == [("stranger", "running")]
    for state in ("stopped", "removing"):
        httpx.patch(f"{address}/simulator/vms/{vm_id}", json={"status": state}).raise_for_status()
    eventually(lambda: not stack.rows(query, vm_id))
