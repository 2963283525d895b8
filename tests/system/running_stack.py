"""A stack that `cvmstop up` runs, seen from outside: its file, its API, its hosts, its rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psycopg

from tests.support.waiting import eventually


if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

END_TIMEOUT = 60.0
"""Seconds that a stack gets to end."""


class RunningStack:
    """What a test does with a stack."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / "stack.json").read_text())
        return found

    def pid(self, process: str) -> int:
        number: int = self.facts["processes"][process]
        return number

    def signal(self, process: str, number: int) -> int:
        """Send a process a signal; give its number."""
        pid = self.pid(process)
        os.kill(pid, number)
        return pid

    def api(self, key: str = "admin_key", *, timeout: float = 10.0) -> httpx.Client:
        facts = self.facts
        return httpx.Client(
            base_url=facts["api_url"], headers={"X-API-Key": facts[key]}, timeout=timeout
        )

    def batch_stop(
        self, cvm_ids: Sequence[str], key: str = "admin_key", *, timeout: float = 10.0
    ) -> tuple[str, dict[str, Any]]:
        """Post a batch; give its id and the answer, which must add up (I1)."""
        with self.api(key, timeout=timeout) as client:
            answer = client.post("/api/v1/cvms/batch-stop", json={"cvm_ids": list(cvm_ids)})
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        assert body["total"] == body["stopped"] + body["skipped"] + len(body["errors"])
        return answer.headers["X-Batch-Id"], body

    def wait_until_ended(self, batch_id: str) -> list[dict[str, Any]]:
        """Wait until every stop task of a batch has ended, and give them."""

        def ended() -> dict[str, Any] | None:
            with suppress(httpx.TransportError), self.api() as client:
                answer = client.get(f"/api/v1/batches/{batch_id}")
                if answer.is_success and not answer.json()["open"]:
                    batch: dict[str, Any] = answer.json()
                    return batch
            return None

        batch = eventually(ended, timeout=60)
        assert batch is not None
        tasks: list[dict[str, Any]] = batch["tasks"]
        return tasks

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Read from the database."""
        with psycopg.connect(self.facts["database_url"]) as connection:
            return connection.execute(query, parameters).fetchall()

    def cvm_ids(self, workspace: str) -> list[str]:
        query = (
            "SELECT hash_id FROM cvms JOIN workspaces ON workspaces.id = workspace_id"
            " WHERE workspaces.name = %s ORDER BY cvms.id"
        )
        return [row[0] for row in self.rows(query, workspace)]

    def start_vms(self, cvm_ids: Collection[str]) -> None:
        """Make CVMs run again on their hosts, at once."""
        query = (
            "SELECT address, vm_uuid FROM cvms JOIN vm_hosts ON vm_hosts.id = vm_host_id"
            " WHERE hash_id = ANY(%s)"
        )
        with httpx.Client() as client:
            for address, vm_uuid in self.rows(query, list(cvm_ids)):
                changed = client.patch(
                    f"{address}/simulator/vms/{vm_uuid}", json={"status": "running"}
                )
                changed.raise_for_status()

    def change_hosts(self, **behaviour: object) -> None:
        """Change how every simulated host behaves."""
        for host in self.facts["hosts"]:
            httpx.patch(f"{host['url']}/simulator/host", json=behaviour).raise_for_status()

    def kills(self) -> Counter[str]:
        """Count the kills of each VM, by the simulated hosts' own logs."""
        lines = [
            json.loads(line)
            for host in self.facts["hosts"]
            for line in Path(host["log_file"]).read_text().splitlines()
        ]
        return Counter(line["vm_id"] for line in lines if line["killed"])

    def vm_statuses(self) -> dict[str, str]:
        """Give the status of each VM, by the simulated hosts themselves."""
        return {
            vm["id"]: vm["status"]
            for host in self.facts["hosts"]
            for vm in httpx.get(f"{host['url']}/simulator/state").json()["vms"]
        }


@contextmanager
def started_up(
    root: Path, *options: str, output: Path
) -> Iterator[tuple[RunningStack, subprocess.Popen[bytes]]]:
    """Run `cvmstop up` on a data directory; end it with the block if it has not ended before."""
    (root / "stack.json").unlink(missing_ok=True)  # of one that was killed
    with output.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "up", "--data-dir", str(root), *options],
            stdout=file,
            stderr=file,
            # Lost messages: wait less for them. Syncs: often, whatever else is tried.
            env={
                **os.environ,
                "CVMSTOP_RESEND_AFTER": "2",
                "CVMSTOP_SYNC_INTERVAL": "2",
                "CVMSTOP_LOG_FORMAT": "json",
                "CVMSTOP_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
                "CVMSTOP_WEBHOOK_ALLOW_HTTP": "true",
            },
        )
    try:
        eventually(lambda: (root / "stack.json").exists() or process.poll() is not None, timeout=90)
        assert process.poll() is None, output.read_text()
        yield RunningStack(root), process
    finally:
        process.terminate()
        process.wait(END_TIMEOUT)
