"""A whole stack with simulated hosts, for the measurements that need one."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from bench.running import running
from bench.waiting import wait_for_file


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CAP = 8
"""Stops at once on one host: what `cvmstop hosts add` takes unless told otherwise."""

WORKSPACE = "bench"
"""Where all CVMs are."""


@dataclass
class Machine:
    """One simulated host."""

    name: str
    url: str
    cvms: list[str] = field(default_factory=list)

    def behave(self, **behaviour: Any) -> None:
        """Change how the host behaves."""
        httpx.patch(f"{self.url}/simulator/host", json=behaviour).raise_for_status()

    def start_all(self) -> None:
        """Start every VM again, as if nobody had stopped it."""
        for vm in self.state()["vms"]:
            body = {"status": "running"}
            httpx.patch(f"{self.url}/simulator/vms/{vm['id']}", json=body).raise_for_status()

    def state(self) -> dict[str, Any]:
        """Ask for the host's VMs and counters."""
        found: dict[str, Any] = httpx.get(f"{self.url}/simulator/state").json()
        return found


@dataclass(frozen=True, kw_only=True)
class Yard:
    """A running stack and the hosts that it knows."""

    environment: dict[str, str]
    """What `cvmstop up` wrote for a shell, and our own."""
    stack_file: Path
    machines: list[Machine]

    def cvmstop(self, *arguments: str) -> str:
        """Run a cvmstop command to its end; gives what it printed."""
        done = subprocess.run(
            _cvmstop(*arguments), env=self.environment, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def client(self) -> httpx.Client:
        """Talk to the API as the stack's admin."""
        return httpx.Client(
            base_url=self.environment["CVMSTOP_API_URL"],
            headers={"X-API-Key": self.environment["CVMSTOP_API_KEY"]},
            timeout=30,
        )


@contextmanager
def running_yard(sizes: Sequence[int]) -> Iterator[Yard]:
    """Run a stack with a host for each number of VMs; all their CVMs are in `WORKSPACE`."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        up = _cvmstop("up", "--data-dir", str(directory / "up"))
        stack.enter_context(running(directory / "up.log", up))
        machines = []
        for number, vms in enumerate(sizes):
            ready = directory / f"host-{number}.url"
            options = ["--vms", str(vms), "--vm-prefix", f"h{number}", "--ready-file", str(ready)]
            options += ["--latency", "0.02", "--stop-seconds", "1"]
            log = directory / f"host-{number}.log"
            stack.enter_context(running(log, _cvmstop("simulate-host", *options)))
            machines.append(Machine(f"host-{number}", wait_for_file(ready)))
        words = shlex.split(wait_for_file(directory / "up" / "cvmstop.env"))
        settings = dict(word.split("=", 1) for word in words if "=" in word)
        yard = Yard(
            environment={**os.environ, **settings},
            stack_file=directory / "up" / "stack.json",
            machines=machines,
        )
        _write_inventory(yard, directory / "cvms.jsonl")
        yield yard


def _cvmstop(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cli", *arguments]


def _write_inventory(yard: Yard, file: Path) -> None:
    """Tell cvmstop of the hosts and their CVMs."""
    yard.cvmstop("workspaces", "create", WORKSPACE)
    lines = []
    for machine in yard.machines:
        yard.cvmstop("hosts", "add", machine.name, machine.url, "--cap", str(CAP))
        for number, vm in enumerate(machine.state()["vms"]):
            machine.cvms.append(f"cvm_{machine.name}-{number}")
            row = {"id": machine.cvms[-1], "name": "bench", "workspace": WORKSPACE}
            lines.append(json.dumps({**row, "host": machine.name, "vm_uuid": vm["id"]}))
    file.write_text("\n".join(lines))
    yard.cvmstop("cvms", "import", str(file))
