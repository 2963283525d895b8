"""A whole stack that stops real QEMU machines, on two hosts with a libvirt daemon each."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from itertools import count
from typing import TYPE_CHECKING

import pytest

from tests.support.libvirt_host import LibvirtHost, libvirt_host
from tests.system.running_stack import RunningStack, started_up


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

numbers = count(1)


class Yard:
    """The stack, and how it is told of hosts and CVMs."""

    def __init__(self, stack: RunningStack, directory: Path) -> None:
        self.stack = stack
        self._directory = directory
        words = shlex.split((stack.root / "cvmstop.env").read_text())
        settings = dict(word.split("=", 1) for word in words if "=" in word)
        self._environment = {**os.environ, **settings}
        self.cvmstop("workspaces", "create", "real")

    def cvmstop(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "cli", *arguments],
            env=self._environment,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def add_host(self, name: str, uri: str) -> None:
        self.cvmstop("hosts", "add", name, uri, "--driver", "libvirt", "--replace")

    def add_cvms(self, host: str, uuids: Sequence[str]) -> list[str]:
        """Tell cvmstop of some machines; give their CVMs' ids."""
        ids = [f"cvm_real{next(numbers):05d}" for _ in uuids]
        lines = [
            {"id": cvm_id, "name": "real", "workspace": "real", "host": host, "vm_uuid": uuid}
            for cvm_id, uuid in zip(ids, uuids, strict=True)
        ]
        file = self._directory / "cvms.jsonl"
        file.write_text("\n".join(json.dumps(line) for line in lines))
        self.cvmstop("cvms", "import", str(file))
        return ids


@pytest.fixture(scope="session")
def yard(
    tmp_path_factory: pytest.TempPathFactory, hosts: tuple[LibvirtHost, LibvirtHost]
) -> Iterator[Yard]:
    directory = tmp_path_factory.mktemp("libvirt")
    with started_up(directory / "stack", output=directory / "up.log") as (running, _):
        yard = Yard(running, directory)
        for name, host in zip(("one", "two"), hosts, strict=True):
            yard.add_host(name, host.uri)
        yield yard


@pytest.fixture(scope="session")
def hosts() -> Iterator[tuple[LibvirtHost, LibvirtHost]]:
    with libvirt_host() as one, libvirt_host() as two:
        yield one, two
