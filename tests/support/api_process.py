"""`cvmstop api` as a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.settings import ENV_PREFIX
from tests.support.ports import free_port
from tests.support.waiting import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shared.settings import ApiSettings

PATIENCE = 30.0
"""Seconds that it gets to end."""


@dataclass(frozen=True, kw_only=True)
class ApiProcess:
    """An API that listens on a port of 127.0.0.1, and writes a log."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def api_process(settings: ApiSettings, directory: Path, **changed: str) -> Iterator[ApiProcess]:
    """Run the API on a database and a broker, and end it with the block.

    Parameters
    ----------
    changed
        Further settings, by name.
    """
    chosen = {
        "database_url": settings.database_url.get_secret_value(),
        "broker_url": settings.broker_url.get_secret_value(),
        "log_format": "json",
        **changed,
    }
    variables = {f"{ENV_PREFIX}{name}".upper(): value for name, value in chosen.items()}
    port = free_port()
    log = directory / "api.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "cli", "api", "--port", str(port)],
            env={**os.environ, **variables},
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            wait_until(lambda: _listens(port) or process.poll() is not None, what="it listens")
            assert process.poll() is None, log.read_text()
            yield ApiProcess(port=port, process=process, log=log)
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
