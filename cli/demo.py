"""`cvmstop demo`: a stack with a healthy, a flaky and a dead host, and 150 CVMs to stop."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer


if TYPE_CHECKING:
    from cli.demo_report import PostedBatch
    from cli.stack.simulation import Inventory
    from cli.stack.stack import Stack

CVMS = 150
"""How many there are: 50 on each host, 75 in each workspace."""

BATCH = 50
"""How many go into a batch: as many as the API takes."""

SETTINGS = {
    "CVMSTOP_STOP_DEADLINE": "20",
    "CVMSTOP_STOP_MAX_FAILURES": "12",
    "CVMSTOP_RETRY_BACKOFF": "0.5",
    "CVMSTOP_RETRY_BACKOFF_MAX": "3",
    "CVMSTOP_RESEND_AFTER": "2",
    "CVMSTOP_DISPATCH_INTERVAL": "0.5",
    "CVMSTOP_BREAKER_COOLDOWN": "3",
    "CVMSTOP_HOST_CONNECT_TIMEOUT": "1",
    "CVMSTOP_HOST_QUERY_TIMEOUT": "2",
    "CVMSTOP_HOST_STOP_TIMEOUT": "3",
    "CVMSTOP_TURN_LIMIT": "10",
    "CVMSTOP_LEASE": "15",
}
"""Short enough that the dead host's stops are given up while one watches; not for production."""

PATIENCE = 45.0
"""Seconds after which the demo stops waiting; every stop's deadline has passed long before."""

POLL_INTERVAL = 0.5
"""Seconds between two looks at the batches."""

SEED = 7
"""Makes the flaky host's errors the same each time, as far as timing allows."""


def demo(
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the stack up afterwards, until Ctrl-C.")
    ] = False,
) -> None:
    """Start a whole stack, stop 150 CVMs on three hosts, show what failed and why.

    One host is healthy, one slow and flaky, one dead. Takes about half a minute; exit status 0
    means that everything went as it should.
    """
    from cli.demo_report import show_commands, show_report
    from cli.stack.stack import Stack
    from cli.stack.supervisor import ToldToStopError
    from cli.up import opened

    inventory = _inventory()
    os.environ.update(SETTINGS)
    good = False
    with opened(None) as directory:
        typer.echo("starting PostgreSQL, Valkey, API, workers, Flower and three simulated hosts")
        stack = Stack(directory, inventory, api_port=None, report=_quiet)
        with suppress(ToldToStopError), stack.running():
            batches = _post(stack)
            _watch(stack, batches)
            good = show_report(stack, batches)
            if keep:
                show_commands(stack.facts, stack.data_dir.logs, batches)
                typer.echo("\nThe stack stays up; Ctrl-C ends it.")
                stack.supervisor.run()
            else:
                typer.echo("\nRun `make demo KEEP=1` to look around.")
    if not good:
        raise typer.Exit(1)


def _inventory() -> Inventory:
    from cli.stack.simulation import SIMULATED_OPTIONS, Inventory, SimulatedHost

    flaky = (
        "--latency=0.15",
        "--latency-jitter=0.15",
        "--stop-seconds=0.5",
        "--error-rate=0.1",
        f"--seed={SEED}",
    )
    hosts = (
        SimulatedHost(name="healthy", options=SIMULATED_OPTIONS),
        SimulatedHost(name="flaky", options=flaky),
        SimulatedHost(name="dead", options=("--dead",)),
    )
    return Inventory(workspaces=("acme", "globex"), user="alice", hosts=hosts, cvms=CVMS)


def _quiet(event: str) -> None:
    """Show what is out of the ordinary only: here readiness is not news."""
    if " ready" not in event:
        typer.echo(event)


def _post(stack: Stack) -> list[PostedBatch]:
    """Post every CVM once, and some that must be refused or skipped."""
    from cli.api_client import ApiClient
    from cli.demo_report import PostedBatch

    records = list(stack.inventory.records())
    acme = [record.hash_id for record in records if record.workspace == "acme"]
    globex = [record.hash_id for record in records if record.workspace == "globex"]
    rest = acme[BATCH:]
    wanted = [
        ("alice", acme[:BATCH]),
        # Five of another workspace, and five twice.
        ("alice", [*rest, *globex[:5], *rest[:5]]),
        ("admin", globex[:BATCH]),
        ("admin", globex[BATCH:]),
    ]
    keys = {"alice": stack.facts.user_key, "admin": stack.facts.admin_key}
    posted: list[PostedBatch] = []
    typer.echo("")
    for caller, cvm_ids in wanted:
        with ApiClient(stack.facts.api_url, keys[caller]) as client:
            began = time.monotonic()
            batch_id, answer = client.batch_stop(cvm_ids)
        batch = PostedBatch(number=len(posted) + 1, caller=caller, id=batch_id, answer=answer)
        posted.append(batch)
        typer.echo(f"{batch.headline}  ({(time.monotonic() - began) * 1000:.0f} ms)")
    typer.echo("")
    return posted


def _watch(stack: Stack, batches: list[PostedBatch]) -> None:
    """Show how the stops go on until all have ended."""
    from cli.api_client import ApiClient
    from cli.demo_progress import Progress

    began = time.monotonic()
    names = [host.name for host in stack.inventory.hosts]
    with ApiClient(stack.facts.api_url, stack.facts.admin_key) as client, Progress(names) as shown:
        while True:
            for batch in batches:
                batch.read(client)
            tasks = [task for batch in batches for task in batch.tasks]
            seconds = time.monotonic() - began
            shown.update(tasks, seconds)
            if all(task["finished_at"] for task in tasks) or seconds > PATIENCE:
                return
            until = time.monotonic() + POLL_INTERVAL
            while time.monotonic() < until:
                stack.supervisor.tick()
                time.sleep(POLL_INTERVAL / 10)
