"""What a side is: a worker process, and a way to hand it stops."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import psutil
from redis import Redis

from bench.running import running
from bench.waiting import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bench.ground import Ground
    from shared.models.turns import DueStop

CONCURRENCY = 200
"""Turns at once in every side's worker: what cvmstop's has unless told otherwise."""


class Side(ABC):
    """One way to have stops carried out by one worker process."""

    name: str

    @abstractmethod
    def command(self, ground: Ground) -> list[str]:
        """Give the command of the worker."""

    @abstractmethod
    def enqueue(self, ground: Ground, stops: Sequence[DueStop]) -> None:
        """Hand stops over, as fast as the side's own documentation says."""

    def environment(self, ground: Ground) -> dict[str, str]:
        """Give the whole environment of the worker and its companions."""
        return ground.environment

    def prepare(self, ground: Ground) -> None:
        """Make what the side needs beside the ground, before its worker starts."""
        del ground

    def companions(self, ground: Ground) -> list[list[str]]:
        """Give the commands of what runs beside the worker, and is not counted as it."""
        del ground
        return []

    def is_ready(self, ground: Ground) -> bool:
        """Whether what is enqueued now will be taken; so from the start, where queues keep it."""
        del ground
        return True


def has_blocked_client(ground: Ground) -> bool:
    """Whether somebody waits for the broker's next message."""
    with Redis.from_url(ground.broker_url) as broker:
        info = broker.info("clients")
    assert isinstance(info, dict)  # noqa: S101 - of a client that does not wait in a coroutine
    return int(info["blocked_clients"]) > 0


@contextmanager
def running_worker(ground: Ground, side: Side) -> Iterator[psutil.Process]:
    """Run a side's worker with its companions until the block ends."""
    side.prepare(ground)
    environment = side.environment(ground)
    with ExitStack() as stack:
        process = stack.enter_context(
            running(_log(ground, side, "worker"), side.command(ground), environment)
        )
        for number, command in enumerate(side.companions(ground)):
            log = _log(ground, side, f"companion-{number}")
            stack.enter_context(running(log, command, environment))
        wait_until(
            lambda: side.is_ready(ground) or process.poll() is not None,
            f"{side.name}: its worker to be ready",
            interval=0.1,
        )
        yield psutil.Process(process.pid)


def last_lines(ground: Ground, side: Side) -> str:
    """Give the end of the worker's log, for whoever wants to know why it failed."""
    return _log(ground, side, "worker").read_text(errors="replace")[-2000:]


def _log(ground: Ground, side: Side, what: str) -> Path:
    return ground.directory / f"{side.name.replace(' ', '-')}-{what}.log"
