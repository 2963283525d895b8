"""`cvmstop up` from its start to its end."""

from __future__ import annotations

import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil

from tests.support.waiting import eventually
from tests.system.running_stack import RunningStack, started_up


if TYPE_CHECKING:
    from pathlib import Path

PROCESSES = {"postgresql", "valkey", "api", "worker", "dispatcher", "beat", "flower"}
KEYS = {
    *("api_url", "flower_url", "flower_user", "flower_password", "database_url", "broker_url"),
    *("admin_key", "user_key", "processes"),
}


def test_what_stack_json_says(stack: RunningStack) -> None:
    facts = stack.facts
    assert facts.keys() == KEYS | {"data_dir", "hosts"}
    hosts = {host["name"] for host in facts["hosts"]}
    assert facts["processes"].keys() == PROCESSES | hosts
    assert len(hosts) == 3
    for name, pid in facts["processes"].items():
        command = " ".join(psutil.Process(pid).cmdline())
        secrets = [facts["flower_password"], facts["database_url"], facts["broker_url"]]
        assert not any(secret in command for secret in secrets), name


def test_files_with_secrets_are_their_owners_only(stack: RunningStack) -> None:
    assert stat.S_IMODE(stack.root.stat().st_mode) == 0o700
    for name in ("stack.json", "secrets.json", "cvmstop.env", "valkey.conf"):
        assert stat.S_IMODE((stack.root / name).stat().st_mode) == 0o600, name
    logs = "".join(log.read_text() for log in (stack.root / "logs").glob("*.log"))
    facts = stack.facts
    for secret in ("flower_password", "admin_key", "user_key", "database_url", "broker_url"):
        assert facts[secret] not in logs


def test_a_second_stack_on_the_same_directory_is_refused(stack: RunningStack) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "cli", "up", "--data-dir", str(stack.root)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert second.returncode == 1
    assert "is in use by the stack of process" in second.stderr
    assert len(second.stderr.splitlines()) == 1


def test_nothing_survives_and_the_data_does(tmp_path: Path) -> None:
    root, output = tmp_path / "stack", tmp_path / "up.log"
    with started_up(root, "--simulate", "6", output=output) as (first, process):
        before = first.facts
        batch_id, _ = first.batch_stop(first.cvm_ids("acme"), "user_key")
        first.wait_until_ended(batch_id)
        process.kill()
        process.wait()
        eventually(lambda: not any(map(psutil.pid_exists, before["processes"].values())))
    with started_up(root, output=output) as (again, process):
        after = again.facts
        same = ("admin_key", "user_key", "api_url", "flower_url", "database_url", "hosts")
        assert {key: after[key] for key in same} == {key: before[key] for key in same}
        with again.api("user_key") as client:
            assert len(client.get(f"/api/v1/batches/{batch_id}").json()["tasks"]) == 3
        assert again.rows("SELECT count(*), count(DISTINCT hash_id) FROM cvms") == [(6, 6)]
        process.terminate()
        assert process.wait(60) == 0
    assert not any(map(psutil.pid_exists, after["processes"].values()))
    assert not (root / "stack.json").exists()
    said = output.read_text()
    assert "with simulated hosts and 6 CVMs on them, as before" in said
    assert " -m cli failures list" in said
