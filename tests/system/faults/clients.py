"""Clients that post batches all the while, and keep every answer they got."""

from __future__ import annotations

import random
import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from tests.system.faults.meanwhile import meanwhile


if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from tests.system.faults.cluster import Cluster

BATCH = 50
"""Ids in a request: the most that it may have."""

OPEN_AT_MOST = 250
"""Clients wait while so many stops are open, so that faults always strike in the middle of work."""

REPEATED = 0.1
"""Share of requests that are made again after their answer: it must be the same."""

PATIENCE = 60.0
"""Seconds for which a client repeats a request that gets no answer, or a 503."""

NO_MORE_AFTER = 2 * PATIENCE
"""Seconds without any stop accepted after which none is expected any more."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One request, and the answer that counts: a repeated one gets the same answer again."""

    batch_id: str
    cvm_ids: tuple[str, ...]
    body: dict[str, Any]


class Clients:
    """Some threads that post; a context manager that ends them.

    Parameters
    ----------
    cluster
        Where they post to.
    wanted
        Stops after which they are content. They go on as long as the block does.
    count_open
        How many stops are open, as far as is known.
    seed
        Of what they ask for.
    threads
        How many.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        wanted: int,
        count_open: Callable[[], int],
        seed: int,
        threads: int = 3,
    ) -> None:
        self._cluster = cluster
        self.wanted = wanted
        self._count_open = count_open
        self._chance = random.Random(seed)  # noqa: S311 - chooses what to stop, guards nothing
        self._lock = threading.Lock()
        self._ids = [record.hash_id for record in cluster.records]
        self._chance.shuffle(self._ids)
        self._next = 0
        self.answers: list[Answered] = []
        self.problems: list[str] = []
        self.statuses: dict[str, int] = {}
        """How often each kind of answer came, errors of the connection included."""
        self._posting = meanwhile(self._work, threads=threads)

    def __enter__(self) -> Self:
        self._posting.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._posting.__exit__(kind, error, trace)

    @property
    def accepted(self) -> int:
        """How many stops the answers count as `stopped`."""
        with self._lock:
            stopped = {answer.batch_id: answer.body["stopped"] for answer in self.answers}
            return sum(stopped.values())

    def wait_for(self, stops: int) -> None:
        """Wait until so many stops have been accepted, for as long as more and more are."""
        before, end = -1, 0.0
        while (accepted := self.accepted) < stops:
            if accepted > before:
                before, end = accepted, time.monotonic() + NO_MORE_AFTER
            assert time.monotonic() < end, (
                f"{accepted} of {stops} were accepted, and none for {NO_MORE_AFTER:g} s"
            )
            time.sleep(0.05)

    def _work(self, ending: threading.Event) -> None:
        try:
            with self._cluster.api() as client:
                while not ending.is_set():
                    if self._count_open() > OPEN_AT_MOST:
                        time.sleep(0.05)
                        continue
                    self._post(client, self._choose())
        except Exception as error:  # noqa: BLE001 - the judgement tells of it
            self.problems.append(f"a client broke: {error!r}")

    def _choose(self) -> list[str]:
        """Choose mostly CVMs that had their turn longest ago, and some mischief."""
        with self._lock:
            chosen = [
                self._ids[(self._next + place) % len(self._ids)] for place in range(BATCH - 3)
            ]
            self._next += len(chosen)
            again = self._ids[(self._next - self._chance.randrange(400)) % len(self._ids)]
            return [*chosen, chosen[0], again, "cvm_nowhere"]

    def _post(self, client: httpx.Client, cvm_ids: list[str]) -> None:
        key = str(uuid.uuid4())
        end = time.monotonic() + PATIENCE
        tries = 0
        while True:
            tries += 1
            status = self._try(client, cvm_ids, key)
            if status == "200":
                if self._chance.random() < REPEATED:
                    self._try(client, cvm_ids, key)
                return
            if time.monotonic() > end:
                self.problems.append(f"no answer within {PATIENCE} s, {tries} tries")
                return
            time.sleep(0.2)

    def _try(self, client: httpx.Client, cvm_ids: list[str], key: str) -> str:
        try:
            answer = client.post(
                "/api/v1/cvms/batch-stop",
                json={"cvm_ids": cvm_ids},
                headers={"Idempotency-Key": key},
            )
            status = str(answer.status_code)
        except httpx.TransportError as error:
            answer, status = None, type(error).__name__
        with self._lock:
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if answer is None:
                return status
            if answer.status_code == 200:
                self.answers.append(
                    Answered(
                        batch_id=answer.headers["X-Batch-Id"],
                        cvm_ids=tuple(cvm_ids),
                        body=answer.json(),
                    )
                )
            elif answer.status_code != 503 or "Retry-After" not in answer.headers:
                self.problems.append(f"answer {status}: {answer.text[:200]}")
        return status
