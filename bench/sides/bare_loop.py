"""The least that a stop takes in Python: threads over a list, bare psycopg, http.client.

Same statements and same calls to the host as a worker's normal turn; no queue, log or framework.
`python -m bench.sides.bare_loop PIPE` reads lists of stop ids from a named pipe, one a line.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import deque
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

import psycopg
import typer

from bench.sides.side import Side
from shared.settings import DatabaseSettings


if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.ground import Ground
    from shared.models.turns import DueStop

THREADS = 64
"""Turns at once; each has a connection to the database. Enough to keep one core busy."""


class Turner:
    """One thread's connections, and the turns it takes with them."""

    def __init__(self, database_url: str) -> None:
        self._database = psycopg.connect(database_url, autocommit=True)
        self._hosts: dict[str, HTTPConnection] = {}

    def work(self, waiting: deque[UUID]) -> None:
        """Take turns until nothing waits."""
        # Compiling the statements takes SQLAlchemy, which the side itself can do without.
        from bench.sides.bare_statements import claim, settle  # noqa: PLC0415

        while True:
            try:
                stop = waiting.popleft()
            except IndexError:
                return
            claimed = claim(self._database, stop)
            exchanges = [
                self._call(claimed.address, method, claimed.vm_uuid)
                for method in ("GetInfo", "StopVm", "GetInfo")
            ]
            if json.loads(exchanges[-1]["answer"][4:])["info"]["status"] != "stopped":
                msg = f"{claimed.vm_uuid} is not down"
                raise RuntimeError(msg)
            settle(self._database, claimed, exchanges)

    def _call(self, address: str, method: str, vm_uuid: str) -> dict[str, Any]:
        host = self._hosts.get(address)
        if host is None:
            host = self._hosts[address] = HTTPConnection(urlsplit(address).netloc)
        content = json.dumps({"id": vm_uuid})
        began = time.monotonic()
        host.request("POST", f"/prpc/{method}?json", content, {"Content-Type": "application/json"})
        response = host.getresponse()
        return {
            "request": f"{method} {content}",
            "answer": f"{response.status} {response.read().decode()}",
            "seconds": time.monotonic() - began,
        }


def main(
    pipe: Annotated[Path, typer.Argument(help="Gives lists of stop ids, as JSON, one a line.")],
    threads: Annotated[int, typer.Option(min=1, help="Turns at once.")] = THREADS,
) -> None:
    """Serve until ended."""
    url = DatabaseSettings.load().database_url.get_secret_value()
    turners = [Turner(url) for _ in range(threads)]
    # Opened for writing too, so that it does not end when a writer closes it.
    with os.fdopen(os.open(pipe, os.O_RDWR), "rb") as lines:
        while line := lines.readline():
            waiting = deque(UUID(stop) for stop in json.loads(line))
            workers = [threading.Thread(target=each.work, args=(waiting,)) for each in turners]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()


class BareLoop(Side):
    """The program as a side.

    Parameters
    ----------
    number
        Tells those apart that run at once.
    """

    def __init__(self, number: int = 0) -> None:
        self.name = f"bare loop {number}" if number else "bare loop"

    def command(self, ground: Ground) -> list[str]:
        """Give the program's command."""
        return [sys.executable, "-m", "bench.sides.bare_loop", str(self._pipe(ground))]

    def prepare(self, ground: Ground) -> None:
        """Make the pipe."""
        self._pipe(ground).unlink(missing_ok=True)
        os.mkfifo(self._pipe(ground))

    def enqueue(self, ground: Ground, stops: Sequence[DueStop]) -> None:
        """Write all ids as one line."""
        ids = [str(stop.stop_task_id) for stop in stops]
        with self._pipe(ground).open("w") as pipe:
            pipe.write(json.dumps(ids) + "\n")

    def _pipe(self, ground: Ground) -> Path:
        return ground.directory / f"{self.name.replace(' ', '-')}.pipe"


if __name__ == "__main__":
    typer.run(main)
