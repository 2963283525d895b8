"""An operator at a terminal, on a whole stack: stop and wait, see what failed, try it again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.running_stack import RunningStack

LONGEST = 120
"""Seconds that a command gets."""


def cvmstop(stack: RunningStack, *arguments: str) -> tuple[int, Any, str]:
    """Run a command as a process; give its status, its JSON, and what it told beside that."""
    facts = stack.facts
    ended = subprocess.run(
        [sys.executable, "-m", "cli", *arguments, "--json"],
        env={
            **os.environ,
            "CVMSTOP_API_URL": facts["api_url"],
            "CVMSTOP_API_KEY": facts["user_key"],
        },
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert "Traceback" not in ended.stderr
    return ended.returncode, json.loads(ended.stdout), ended.stderr


def states(stack: RunningStack, batches: list[str]) -> Counter[str]:
    query = "SELECT state FROM stop_tasks WHERE batch_id = ANY(%s::uuid[])"
    return Counter(state for (state,) in stack.rows(query, batches))


def test_stop_wait_and_retry(stack: RunningStack) -> None:
    ids = stack.cvm_ids("acme")
    stack.start_vms(ids)
    status, report, told = cvmstop(stack, "stop", "--workspace", "acme", "--yes", "--wait")
    assert status == 0, told
    batches = [batch["id"] for batch in report["batches"]]
    assert len(batches) == len(ids) / 50
    assert states(stack, batches) == {"succeeded": len(ids)}
    assert report["outcome"]["succeeded"] == len(ids)
    assert f"{len(ids)} of {len(ids)} ended" in told
    statuses = stack.vm_statuses()
    down = {task["cvm_id"] for task in report["outcome"]["tasks"]}
    vms = stack.rows("SELECT vm_uuid FROM cvms WHERE hash_id = ANY(%s)", list(down))
    assert {statuses[vm] for (vm,) in vms} == {"stopped"}


@contextmanager
def watching(stack: RunningStack, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run `cvmstop watch` as a process."""
    facts = stack.facts
    with subprocess.Popen(
        [sys.executable, "-m", "cli", "watch", *arguments],
        env={
            **os.environ,
            "CVMSTOP_API_URL": facts["api_url"],
            "CVMSTOP_API_KEY": facts["user_key"],
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_watch_goes_on_though_the_api_dies(stack: RunningStack) -> None:
    ids = stack.cvm_ids("acme")[:20]
    stack.start_vms(ids)
    stack.signal("worker", signal.SIGSTOP)
    try:
        batch, _ = stack.batch_stop(ids, "user_key")
        with watching(stack, "--json") as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in ids]
            stack.signal("api", signal.SIGKILL)
            stack.signal("worker", signal.SIGCONT)
            rest, told = process.communicate(timeout=LONGEST)
    finally:
        stack.signal("worker", signal.SIGCONT)
    events = [json.loads(line) for line in (*lines, *rest.splitlines())]
    assert (process.returncode, told) == (0, "")
    assert events.pop()["counts"]["succeeded"] == len(ids)
    found = Counter((event["stop_task_id"], event["state"], event["attempt"]) for event in events)
    rows = stack.rows(
        "SELECT stop_task_id::text, state, attempt FROM stop_changes WHERE batch_id = %s"
        " UNION ALL SELECT id::text, 'scheduled', 0 FROM stop_tasks WHERE batch_id = %s",
        batch,
        batch,
    )
    assert found == Counter(rows)


def test_watch_ends_at_ctrl_c_with_a_line(stack: RunningStack) -> None:
    (cvm_id, *_) = stack.cvm_ids("acme")
    stack.start_vms([cvm_id])
    stack.signal("worker", signal.SIGSTOP)
    try:
        batch, _ = stack.batch_stop([cvm_id], "user_key")
        with watching(stack, batch) as process:
            assert process.stdout is not None
            assert "scheduled" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=LONGEST)
    finally:
        stack.signal("worker", signal.SIGCONT)
    assert process.returncode == 1
    assert told.splitlines()[1:] == [
        f"cvmstop: not watching any longer; the stops go on: cvmstop watch {batch}"
    ]
    stack.wait_until_ended(batch)


def test_cancel_and_retry(stack: RunningStack) -> None:
    """What no worker had is canceled, and never reaches a host; tried again, it is stopped."""
    ids = stack.cvm_ids("acme")[:4]
    stack.start_vms(ids)
    kills = stack.kills()
    stack.signal("worker", signal.SIGSTOP)
    try:
        _, report, _ = cvmstop(stack, "stop", *ids)
        (batch,) = report["batches"]
        status, answer, _ = cvmstop(stack, "batches", "cancel", batch["id"])
    finally:
        stack.signal("worker", signal.SIGCONT)
    assert (status, answer) == (0, {"total": 4, "canceled": 4, "not_canceled": []})
    tasks = stack.wait_until_ended(batch["id"])
    assert {task["state"] for task in tasks} == {"canceled"}
    canceled = [task["id"] for task in tasks]
    status, report, told = cvmstop(stack, "failures", "retry", *canceled, "--wait")
    assert status == 0, told
    assert states(stack, report["batches"]) == {"succeeded": 4}
    # The messages of the canceled ones were taken too, and did nothing.
    assert sum((stack.kills() - kills).values()) == 4
