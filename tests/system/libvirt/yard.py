"""A stack that is told of libvirt hosts and their machines, as an operator would."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from itertools import count
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.system.running_stack import RunningStack

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
