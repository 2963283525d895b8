"""What a side is: a worker process, and a way to hand it stops."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import psutil
from redis import Redis

from bench.waiting import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.ground import Ground
    from shared.models.turns import DueStop

CONCURRENCY = 200
"""Turns at once in every side's worker: what cvmstop's has unless told otherwise."""

PATIENCE = 20.0
"""Seconds that a worker gets to end by itself."""


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
    with ExitStack() as stack:
        process = stack.enter_context(_running(ground, side, side.command(ground), "worker"))
        for number, command in enumerate(side.companions(ground)):
            stack.enter_context(_running(ground, side, command, f"companion-{number}"))
        wait_until(
            lambda: side.is_ready(ground) or process.poll() is not None,
            f"{side.name}: its worker to be ready",
            interval=0.1,
        )
        yield psutil.Process(process.pid)


@contextmanager
def _running(
    ground: Ground, side: Side, command: list[str], what: str
) -> Iterator[subprocess.Popen[bytes]]:
    log = ground.directory / f"{side.name.replace(' ', '-')}-{what}.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            env=side.environment(ground),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process; with its children, should it not do so itself."""
    if process.poll() is not None:
        return
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
    for child in family:
        # psutil knows a process by its start too: a pid that was given away again is not touched.
        if child.is_running():
            child.kill()


def last_lines(ground: Ground, side: Side) -> str:
    """Give the end of the worker's log, for whoever wants to know why it failed."""
    log = ground.directory / f"{side.name.replace(' ', '-')}-worker.log"
    return log.read_text(errors="replace")[-2000:]
