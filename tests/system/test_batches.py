"""Many batches by several callers: each stop ends, and the hosts tell the same story."""

from __future__ import annotations

import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from tests.system.running_stack import RunningStack

OPEN_TASKS = (
    "SELECT hash_id, count(*) FROM stop_tasks JOIN cvms ON cvms.id = cvm_id"
    " WHERE finished_at IS NULL GROUP BY hash_id"
)

ROUNDS = 20
"""How often two requests race for the same CVMs."""


def test_every_accepted_stop_ends_and_the_hosts_agree(stack: RunningStack) -> None:
    acme, globex = stack.cvm_ids("acme"), stack.cvm_ids("globex")
    stack.start_vms([*acme, *globex])
    kills_before = stack.kills()
    requests = [
        (acme[:50], "user_key"),
        (acme[50:], "user_key"),
        (globex[:50], "admin_key"),
        (globex[50:], "admin_key"),
    ]
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda request: stack.batch_stop(*request), requests))
    assert [body["stopped"] for _, body in answers] == [50, 50, 50, 50]
    tasks = [task for batch_id, _ in answers for task in stack.wait_until_ended(batch_id)]
    assert Counter(task["state"] for task in tasks) == {"succeeded": 200}
    # By the hosts' own account each VM was killed once, and is stopped now.
    assert stack.kills() - kills_before == Counter(task["vm_uuid"] for task in tasks)
    assert set(stack.vm_statuses().values()) == {"stopped"}
    assert stack.rows("SELECT DISTINCT status, in_progress FROM cvms") == [("stopped", False)]


def test_other_workspaces_and_repeats(stack: RunningStack) -> None:
    own, foreign = stack.cvm_ids("acme")[0], stack.cvm_ids("globex")[0]
    batch_id, body = stack.batch_stop([own, foreign, own, "cvm_no_such"], "user_key")
    assert (body["stopped"], body["skipped"]) == (1, 1)
    refused, unknown = body["errors"]
    assert refused == {**unknown, "cvm_id": foreign}
    (task,) = stack.wait_until_ended(batch_id)
    assert (task["cvm_id"], task["state"]) == (own, "succeeded")


def test_two_requests_at_once_never_stop_a_cvm_twice(stack: RunningStack) -> None:
    cvm_ids = stack.cvm_ids("globex")[:50]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(ROUNDS):
            # No stop may end between the two requests: the second would rightly stop it again.
            stack.signal("worker", signal.SIGSTOP)
            try:
                answers = list(pool.map(stack.batch_stop, [cvm_ids, cvm_ids[::-1]]))
                open_tasks = stack.rows(OPEN_TASKS)
            finally:
                stack.signal("worker", signal.SIGCONT)
            assert sum(body["stopped"] for _, body in answers) == 50
            assert sum(body["skipped"] for _, body in answers) == 50
            assert dict(open_tasks) == dict.fromkeys(cvm_ids, 1)
            for batch_id, _ in answers:
                stack.wait_until_ended(batch_id)
