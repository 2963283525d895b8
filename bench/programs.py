"""cvmstop's own processes on a `bench.ground`, as README.md says that they are run."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from bench.running import running
from bench.waiting import wait_until
from shared.broker import HOUSEKEEPING_QUEUE, STOPS_QUEUE, make_celery
from tests.support.ports import free_port


if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.ground import Ground

QUIET = ("--without-gossip", "--without-mingle")


@dataclass(frozen=True, kw_only=True)
class Programs:
    """Processes that run, and where the API is."""

    url: str
    api: int
    """Process number of the API."""
    workers: tuple[int, ...]
    """Process numbers of the workers that stop."""


@contextmanager
def running_programs(ground: Ground, *, workers: int) -> Iterator[Programs]:
    """Run an API, so many workers, a dispatcher and beat until the block ends; all are ready."""
    with ExitStack() as stack:

        def run(name: str, *arguments: str) -> int:
            command = [sys.executable, "-m", *arguments]
            log = ground.directory / f"{name}.log"
            return stack.enter_context(running(log, command, ground.environment)).pid

        port = free_port()
        api = run("api", "cli", "api", "--port", str(port))
        celery = ("celery", "-A", "workers.app")
        pids = tuple(
            run(f"bench{number}", *celery, "worker", "-Q", STOPS_QUEUE, *_node(number))
            for number in range(1, workers + 1)
        )
        node = ("-n", "dispatcher@%h")
        run("dispatcher", *celery, "worker", "-Q", HOUSEKEEPING_QUEUE, "-c", "2", *node, *QUIET)
        run("beat", *celery, "beat")
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: _is_ready(url), "an API that is ready")
        nodes = [f"{name}@{socket.gethostname()}" for name in _names(workers)]
        wait_for_workers(ground, nodes)
        yield Programs(url=url, api=api, workers=pids)


def wait_for_workers(ground: Ground, nodes: list[str]) -> None:
    """Wait until Celery workers answer, by their names."""
    app = make_celery(ground.settings)
    wait_until(
        lambda: len(app.control.ping(nodes, timeout=1.0) or ()) == len(nodes), "workers that answer"
    )
    app.close()


def _names(workers: int) -> list[str]:
    return [*(f"bench{number}" for number in range(1, workers + 1)), "dispatcher"]


def _node(number: int) -> tuple[str, ...]:
    return ("-n", f"bench{number}@%h", *QUIET)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
