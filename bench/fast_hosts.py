"""Simulated hosts that cost next to nothing: for figures in which they must not be what is slow.

`python -m bench.fast_hosts --hosts 10 --ready-file FILE` serves so many hosts, each on a port of
its own, in one process without threads. They speak as much of dstack-vmm's protocol as a stop
needs (GetInfo, StopVm) and every answer takes `--latency` seconds. A VM is down as soon as its
StopVm was answered; every id is a VM. `cvmstop simulate-host` is the one that behaves like a real
host, and costs ten times as much.

`python -m bench.fast_hosts --ceiling` prints what they take at most.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import psutil
import typer

from bench.waiting import wait_for_file


if TYPE_CHECKING:
    from collections.abc import Iterator

LATENCY = 0.02
"""Seconds that a host takes for each answer, unless told otherwise."""

FORGET = b"POST /forget "
"""Start of a request that starts every VM of every host again."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"

INFO = json.dumps(
    {
        "found": True,
        "info": {
            "id": "%(id)s",
            "name": "bench",
            "status": "%(status)s",
            "uptime": "5m 3s",
            "app_url": None,
            "app_id": "0" * 40,
            "instance_id": None,
            "configuration": None,
            "exited_at": "never",
            "boot_progress": "done",
            "boot_error": "",
            "shutdown_progress": "",
            "image_version": "0.5.5",
            "events": [],
            "interfaces": [],
        },
    }
).encode()
"""Answer to GetInfo; names and order as in dstack's `vmm/rpc/proto/vmm_rpc.proto`, `VmInfo`."""


class Yard:
    """What all hosts of the process share."""

    def __init__(self, latency: float) -> None:
        self.latency = latency
        self.down: set[bytes] = set()
        """`vm_uuid`s; unique over all hosts here."""


class Connection(asyncio.Protocol):
    """One connection; its client sends a request after the last one was answered."""

    def __init__(self, yard: Yard) -> None:
        self._yard = yard
        self._received = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment] # of a TCP server, always a writable one

    def data_received(self, data: bytes) -> None:
        """Answer each whole request after the latency."""
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(rest) < length:
            return
        self._received = rest[length:]
        asyncio.get_running_loop().call_later(self._yard.latency, self._answer, head, rest[:length])

    def _answer(self, head: bytes, content: bytes) -> None:
        assert self._transport is not None  # noqa: S101 - set before anything is received
        if self._transport.is_closing():
            return
        if head.startswith(FORGET):
            self._yard.down.clear()
            body = b"null"
        else:
            vm = content[content.index(b":") + 1 :].strip(b' "}')
            if b"/prpc/StopVm" in head:
                self._yard.down.add(vm)
                body = b"null"
            else:
                status = b"stopped" if vm in self._yard.down else b"running"
                body = INFO % {b"id": vm, b"status": status}
        self._transport.write(HEAD % len(body) + body)


async def serve(hosts: int, latency: float, ready_file: Path) -> None:
    """Serve until the process ends; writes the ports, one on each line, when all listen."""
    yard = Yard(latency)
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(lambda: Connection(yard), "127.0.0.1", 0, backlog=1024)
        for _ in range(hosts)
    ]
    unfinished = ready_file.with_suffix(".unfinished")
    unfinished.write_text("\n".join(str(server.sockets[0].getsockname()[1]) for server in servers))
    unfinished.rename(ready_file)
    await asyncio.Event().wait()


@dataclass(frozen=True, kw_only=True)
class FastHosts:
    """Hosts that run in a process of their own."""

    ports: tuple[int, ...]
    process: psutil.Process

    @property
    def addresses(self) -> list[str]:
        """Their addresses, as drivers want them."""
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    def start_all(self) -> None:
        """Start every VM of every host again."""
        asyncio.run(self._exchange(FORGET + b"HTTP/1.1\r\nContent-Length: 0\r\n\r\n"))

    async def _exchange(self, request: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[0])
        writer.write(request)
        await reader.readuntil(b"\r\n\r\nnull")
        writer.close()
        await writer.wait_closed()

    async def load(self, *, connections: int, seconds: float) -> int:
        """Ask over so many connections at once as often as possible; gives the answers."""
        end = time.monotonic() + seconds
        answered = 0
        body = b'{"id": "vm"}'
        request = (
            b"POST /prpc/GetInfo?json HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        expected = len(HEAD % 100 + INFO % {b"id": b"vm", b"status": b"running"})

        async def ask(port: int) -> None:
            nonlocal answered
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while time.monotonic() < end:
                writer.write(request)
                await reader.readexactly(expected)
                answered += 1
            writer.close()

        ports = [self.ports[number % len(self.ports)] for number in range(connections)]
        await asyncio.gather(*(ask(port) for port in ports))
        return answered


@contextmanager
def running_fast_hosts(
    directory: Path, hosts: int, *, latency: float = LATENCY
) -> Iterator[FastHosts]:
    """Run so many hosts, and end them with the block."""
    ready = directory / f"fast-hosts-{hosts}.ports"
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "bench.fast_hosts", "--hosts", str(hosts)]
    options = ["--latency", str(latency), "--ready-file", str(ready)]
    with subprocess.Popen([*command, *options]) as process:
        try:
            ports = tuple(int(line) for line in wait_for_file(ready).split())
            yield FastHosts(ports=ports, process=psutil.Process(process.pid))
        finally:
            process.terminate()


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """What the hosts take at most, beside a client that takes as much."""

    answers_per_second: float
    cpu_milliseconds: float
    """CPU time of the hosts for one answer."""


def measured_ceiling(*, seconds: float = 2.0) -> Ceiling:
    """Measure what ten hosts take, asked over 256 connections."""
    with (
        tempfile.TemporaryDirectory() as directory,
        running_fast_hosts(Path(directory), 10) as hosts,
    ):
        before = sum(hosts.process.cpu_times()[:2])
        answers = asyncio.run(hosts.load(connections=256, seconds=seconds))
        took = sum(hosts.process.cpu_times()[:2]) - before
    return Ceiling(answers_per_second=answers / seconds, cpu_milliseconds=took / answers * 1000)


def main(
    *,
    hosts: Annotated[int, typer.Option(min=1, help="How many hosts.")] = 10,
    latency: Annotated[float, typer.Option(help="Seconds for each answer.")] = LATENCY,
    ready_file: Annotated[Path, typer.Option(help="Gets the ports.")] = Path("fast-hosts.ports"),
    ceiling: Annotated[bool, typer.Option("--ceiling", help="Measure themselves.")] = False,
) -> None:
    """Serve hosts, or measure what they take."""
    if ceiling:
        measured = measured_ceiling()
        typer.echo(
            f"{measured.answers_per_second:.0f} answers/s,"
            f" {measured.cpu_milliseconds:.3f} ms of CPU each"
        )
        return
    asyncio.run(serve(hosts, latency, ready_file))


if __name__ == "__main__":
    typer.run(main)
