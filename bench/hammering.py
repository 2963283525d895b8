"""Clients that post batches as fast as they can, in processes of their own."""

from __future__ import annotations

import json
import random
import threading
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from multiprocessing import get_context
from typing import TYPE_CHECKING
from urllib.parse import urlsplit


if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PROCESSES = 2
"""Client processes: threads of one share a core, which must not be what is measured."""

PATIENCE = 60.0
"""Seconds that a client waits for an answer, so that the slowest are measured too."""

NO_ANSWER = 0
"""Stands for the status of a request that got no answer."""


@dataclass(frozen=True)
class Answer:
    """One answer: its status, how long it took (s), and its `Retry-After`."""

    status: int
    seconds: float
    retry_after: str | None


@dataclass(frozen=True)
class Client:
    """One client: a key, what it may stop, and for how long (s) it posts."""

    number: int
    url: str
    api_key: str
    cvms: tuple[str, ...]
    largest: int
    seconds: float

    def hammer(self) -> list[Answer]:
        """Post batches of random size, one after the other, whatever the answers say."""
        dice = random.Random(self.number)  # noqa: S311 - a repeatable load, no secret
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=PATIENCE)
        headers = {"X-API-Key": self.api_key, "Content-Type": "application/json"}
        answers = []
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            chosen = dice.sample(self.cvms, dice.randint(1, min(self.largest, len(self.cvms))))
            body = json.dumps({"cvm_ids": chosen})
            began = time.monotonic()
            try:
                connection.request("POST", "/api/v1/cvms/batch-stop", body, headers)
                response = connection.getresponse()
                response.read()
                status, retry_after = response.status, response.headers["Retry-After"]
            except (OSError, HTTPException):
                connection.close()
                status, retry_after = NO_ANSWER, None
            answers.append(Answer(status, time.monotonic() - began, retry_after))
        connection.close()
        return answers


def hammer_all(clients: Sequence[Client], meanwhile: Callable[[], object]) -> list[Answer]:
    """Let all clients post at once; calls `meanwhile` again and again until they have ended."""
    shares = [clients[first::PROCESSES] for first in range(PROCESSES)]
    with get_context("spawn").Pool(PROCESSES) as pool:
        result = pool.map_async(_hammer_in_threads, [share for share in shares if share])
        while not result.ready():
            meanwhile()
            result.wait(0.5)
        return [answer for answers in result.get() for answer in answers]


def _hammer_in_threads(clients: Sequence[Client]) -> list[Answer]:
    answers: list[Answer] = []

    def run(client: Client) -> None:
        answers.extend(client.hammer())

    threads = [threading.Thread(target=run, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers
