"""The two API processes that accept: cvmstop's, and the stock one."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.sides.cvmstop import Cvmstop
from bench.sides.stock.side import Stock
from bench.waiting import wait_until
from tests.support.postgresql import free_port


if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.ground import Ground
    from bench.sides.side import Side


@dataclass(frozen=True, kw_only=True)
class Api:
    """An API as a command, and the worker that drains what it accepts."""

    name: str
    arguments: tuple[str, ...]
    """Of Python, without the port."""
    worker: Side


OURS = Api(name="cvmstop", arguments=("-m", "cli", "api", "--port"), worker=Cvmstop())
STOCK = Api(
    name="stock",
    arguments=(
        *("-m", "uvicorn", "bench.sides.stock.app:app", "--log-level", "warning"),
        *("--no-access-log", "--port"),
    ),
    worker=Stock(),
)


@contextmanager
def running_api(ground: Ground, api: Api) -> Iterator[int]:
    """Run one API process until the block ends; gives its port."""
    port = free_port()
    log = ground.directory / f"{api.name}-api.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, *api.arguments, str(port)],
            env=ground.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            wait_until(lambda: _listens(port) or process.poll() is not None, f"{api.name}: its API")
            if process.poll() is not None:
                sys.exit(f"{api.name}: its API ended\n{log.read_text(errors='replace')[-2000:]}")
            yield port
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
