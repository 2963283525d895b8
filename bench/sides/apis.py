"""The two API processes that accept: cvmstop's, and the stock one."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.running import running
from bench.sides.cvmstop import Cvmstop
from bench.sides.stock.side import Stock
from bench.waiting import listens, wait_until
from tests.support.ports import free_port


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
    command = [sys.executable, *api.arguments, str(port)]
    with running(log, command, ground.environment) as process:
        wait_until(lambda: listens(port) or process.poll() is not None, f"{api.name}: its API")
        if process.poll() is not None:
            sys.exit(f"{api.name}: its API ended\n{log.read_text(errors='replace')[-2000:]}")
        yield port
