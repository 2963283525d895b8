"""Measures what it costs when many follow one batch live.

`python -m bench.readers` starts a whole stack and a simulated host, stops 50 VMs in one batch, and
lets 500 readers follow it over server-sent events at one API process; and one reader, to compare.
It prints how long it took from a change to its arrival, at how many events, and what the API
process used. Exit status 1 when a reader missed an event or got one twice.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from statistics import quantiles
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import psutil
import typer

from bench.machines import CAP, Yard, running_yard
from bench.waiting import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 50
MIB = 2**20


@dataclass
class Reader:
    """What one of them got."""

    began: float = 0.0
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    """As they came, and when: what they say is looked at afterwards, which takes a while."""

    async def follow(self, port: int, head: bytes) -> None:
        """Read one stream to its end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        await reader.readuntil(b"\r\n\r\n")
        self.began = time.time()
        while piece := await reader.read(MIB):
            self.pieces.append((time.time(), piece))
        writer.close()

    def changes(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """Give each change of a stop, and when it came."""
        rest = b""
        for arrived, piece in self.pieces:
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b'data: {"stop_task_id"'):
                    yield arrived, json.loads(line.removeprefix(b"data: "))

    def steps(self) -> list[tuple[str, str, int]]:
        """Give of each: which stop, where to, at which attempt."""
        return [
            (change["stop_task_id"], change["state"], change["attempt"])
            for _, change in self.changes()
        ]

    def delays(self) -> Iterator[float]:
        """Give the seconds to its arrival, for each that was made after it had begun."""
        for arrived, change in self.changes():
            at = datetime.fromisoformat(change["at"]).timestamp()
            if at > self.began:
                yield arrived - at


def measure(yard: Yard, count: int) -> bool:
    """Stop all VMs, followed by so many; prints what it took, says whether all got everything."""
    machine = yard.machines[0]
    machine.start_all()
    pid = json.loads(yard.stack_file.read_text())["processes"]["api"]
    api = psutil.Process(pid)
    with yard.client() as client:
        answer = client.post("/api/v1/cvms/batch-stop", json={"cvm_ids": machine.cvms})
        path = f"{answer.headers['location']}/events"
        used, memory = sum(api.cpu_times()[:2]), api.memory_info().rss
        port = urlsplit(yard.environment["CVMSTOP_API_URL"]).port or 0
        head = (
            f"GET {path} HTTP/1.1\r\nHost: api\r\nConnection: close\r\n"
            f"X-API-Key: {yard.environment['CVMSTOP_API_KEY']}\r\n\r\n"
        ).encode()
        readers = [Reader() for _ in range(count)]

        async def follow_all() -> None:
            await asyncio.gather(*(each.follow(port, head) for each in readers))

        began = time.time()
        asyncio.run(follow_all())
        took = time.time() - began
        used = sum(api.cpu_times()[:2]) - used
        memory = api.memory_info().rss - memory
        wait_until(
            lambda: not client.get(answer.headers["location"]).json()["open"], "no stop is open"
        )
    cuts = quantiles((delay for each in readers for delay in each.delays()), n=100)
    steps = [each.steps() for each in readers]
    opened = max(each.began for each in readers) - began
    typer.echo(
        f"{count:4} readers: {sum(map(len, steps)):6} events in {took:.1f} s,"
        f" all connected after {opened:.2f} s; from a change to its arrival: median"
        f" {cuts[49] * 1000:.0f} ms, 99th percentile {cuts[98] * 1000:.0f} ms;"
        f" API: {used:.2f} s of CPU, {memory / MIB:+.0f} MiB"
    )
    complete = set(steps[0])
    return all(len(each) == len(complete) == len(set(each)) for each in steps)


def main(readers: Annotated[int, typer.Option(min=1)] = 500) -> None:
    """Measure with one reader, and with many."""
    with running_yard([SIZE]) as yard:
        typer.echo(f"{SIZE} stops, {CAP} at once")
        is_good = measure(yard, 1) and measure(yard, readers)
    if not is_good:
        sys.exit("a reader missed an event, or got one twice")


if __name__ == "__main__":
    typer.run(main)
