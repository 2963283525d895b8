"""Measures how much bad hosts delay good ones.

`python -m bench.bulkhead` starts a whole stack and ten simulated hosts, stops 50 CVMs on each good
host (200 on each bad one), first with all of them well and then with one that swallows everything.
It prints the time until the good hosts' stops have all succeeded, the ratio of the two, the most
force stops that any host saw at once beside its cap, and how long the bad host's stops take to
drain once it is well again. `--bad N` and `--fault JSON` (what `PATCH /simulator/host` of a
simulated host takes) give other kinds of trouble.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import typer


if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTS = 10
CAP = 8
STOPS = 50
"""Stops on each good host."""

STOPS_ON_BAD = 200
"""Stops on each bad host."""

BLACK_HOLE = '{"dead": true}'
WELL = {"dead": False, "faults": [], "blocking_stop_seconds": 0}


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


@contextmanager
def running(directory: Path, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a cvmstop command; end it with the block."""
    with (directory / f"{name}.log").open("wb") as log:
        command = [sys.executable, "-m", "cli", *arguments]
        with subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                yield process
            finally:
                process.terminate()


def wait_for(file: Path) -> str:
    """Wait until a file is there; gives its text."""
    end = time.monotonic() + 60
    while not file.exists():
        if time.monotonic() > end:
            sys.exit(f"gave up waiting for {file.name}")
        time.sleep(0.05)
    return file.read_text().strip()


def cvmstop(environment: dict[str, str], *arguments: str) -> None:
    """Run a cvmstop command to its end."""
    command = [sys.executable, "-m", "cli", *arguments]
    subprocess.run(command, env=environment, check=True, capture_output=True)


def settings_of(directory: Path) -> dict[str, str]:
    """Read what `cvmstop up` wrote for a shell."""
    words = shlex.split(wait_for(directory / "cvmstop.env"))
    pairs = (word.split("=", 1) for word in words if "=" in word)
    return {**os.environ, **dict(pairs)}


def stop_all(client: httpx.Client, machines: list[Machine]) -> list[str]:
    """Post the stops of all CVMs of some hosts; gives the batches."""
    batches = []
    for machine in machines:
        for first in range(0, len(machine.cvms), 50):
            body = {"cvm_ids": machine.cvms[first : first + 50]}
            answer = client.post("/api/v1/cvms/batch-stop", json=body)
            if answer.json()["stopped"] != len(body["cvm_ids"]):
                sys.exit(f"not all were taken: {answer.text}")
            batches.append(answer.headers["x-batch-id"])
    return batches


def wait_until_ended(client: httpx.Client, batches: list[str], began: float) -> float:
    """Wait until no stop of the batches is open, all succeeded; gives the seconds since `began`."""
    for batch in batches:
        while (found := client.get(f"/api/v1/batches/{batch}").json())["open"]:
            time.sleep(0.1)
        if found["counts"]["succeeded"] != found["stopped"]:
            sys.exit(f"not all succeeded: {found['counts']}")
    return time.monotonic() - began


def main(
    bad: Annotated[int, typer.Option(min=1, max=HOSTS - 1, help="How many bad hosts.")] = 1,
    fault: Annotated[str, typer.Option(help="What is wrong with them, as JSON.")] = BLACK_HOLE,
) -> None:
    """Measure, and print a line for each figure."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(running(directory, "up", "up", "--data-dir", str(directory / "up")))
        machines = []
        for number in range(HOSTS):
            ready = directory / f"host-{number}.url"
            vms = STOPS_ON_BAD if number < bad else STOPS
            options = ["--vms", str(vms), "--vm-prefix", f"h{number}", "--ready-file", str(ready)]
            options += ["--latency", "0.02", "--stop-seconds", "1"]
            stack.enter_context(running(directory, f"host-{number}", "simulate-host", *options))
            machines.append(Machine(f"host-{number}", wait_for(ready)))
        environment = settings_of(directory / "up")
        write_inventory(environment, directory, machines)
        with httpx.Client(
            base_url=environment["CVMSTOP_API_URL"],
            headers={"X-API-Key": environment["CVMSTOP_API_KEY"]},
            timeout=30,
        ) as client:
            compare(client, machines[:bad], machines[bad:], json.loads(fault))


def write_inventory(environment: dict[str, str], directory: Path, machines: list[Machine]) -> None:
    """Tell cvmstop of the hosts and their CVMs."""
    cvmstop(environment, "workspaces", "create", "bench")
    lines = []
    for machine in machines:
        cvmstop(environment, "hosts", "add", machine.name, machine.url, "--cap", str(CAP))
        for number, vm in enumerate(machine.state()["vms"]):
            machine.cvms.append(f"cvm_{machine.name}-{number}")
            row = {"id": machine.cvms[-1], "name": "bench", "workspace": "bench"}
            lines.append(json.dumps({**row, "host": machine.name, "vm_uuid": vm["id"]}))
    file = directory / "cvms.jsonl"
    file.write_text("\n".join(lines))
    cvmstop(environment, "cvms", "import", str(file))


def compare(
    client: httpx.Client, bad: list[Machine], good: list[Machine], fault: dict[str, Any]
) -> None:
    """Stop everything twice: with all hosts well, and with the fault."""
    began = time.monotonic()
    others = stop_all(client, bad)
    usual = wait_until_ended(client, stop_all(client, good), began)
    wait_until_ended(client, others, began)
    for machine in [*bad, *good]:
        machine.start_all()
    for machine in bad:
        machine.behave(**fault)
    began = time.monotonic()
    others = stop_all(client, bad)
    troubled = wait_until_ended(client, stop_all(client, good), began)
    for machine in bad:
        machine.behave(**WELL)
    drained = wait_until_ended(client, others, time.monotonic())
    most = max(machine.state()["stop_vm"]["max"] for machine in [*bad, *good])
    typer.echo(f"bad hosts: {len(bad)} of {len(bad) + len(good)}, {json.dumps(fault)}")
    typer.echo(f"good hosts' stops, all hosts well:  {usual:6.1f} s")
    typer.echo(f"good hosts' stops, with bad hosts:  {troubled:6.1f} s  ({troubled / usual:.2f} x)")
    typer.echo(f"force stops at once on a host:      {most:4d}     (cap {CAP})")
    typer.echo(f"bad hosts' stops, once well again:  {drained:6.1f} s")


if __name__ == "__main__":
    typer.run(main)
