"""One program beside the measurement: its output in a file, ended with the block."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil


if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

PATIENCE = 60.0
"""Seconds that a program gets to end by itself."""


@contextmanager
def running(
    log: Path, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends, and whatever it has started with it.

    Parameters
    ----------
    log
        Gets all that it prints.
    command
        The program and its arguments.
    environment
        All of its variables; None for those of this process.
    """
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            env=environment,
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
