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
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.machines import CAP, running_yard


if TYPE_CHECKING:
    import httpx

    from bench.machines import Machine

HOSTS = 10
STOPS = 50
"""Stops on each good host."""

STOPS_ON_BAD = 200
"""Stops on each bad host."""

BLACK_HOLE = '{"dead": true}'
WELL = {"dead": False, "faults": [], "blocking_stop_seconds": 0}


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
    sizes = [STOPS_ON_BAD] * bad + [STOPS] * (HOSTS - bad)
    with running_yard(sizes) as yard, yard.client() as client:
        compare(client, yard.machines[:bad], yard.machines[bad:], json.loads(fault))


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
