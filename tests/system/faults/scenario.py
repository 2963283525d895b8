"""A few stops under close observation, for the tests that strike at one exact place."""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from tests.support.waiting import eventually
from tests.system.faults.run import settling_time


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shared.models.inventory import CvmRecord
    from tests.system.faults.cluster import Cluster


@dataclass(frozen=True)
class Attempt:
    """One worker's turn, as its row has it."""

    stop_task_id: str
    number: int
    worker: str
    outcome: str
    error_code: str | None


class Scenario:
    """Some CVMs that run, and the stops of them.

    Parameters
    ----------
    cluster
        In good order.
    count
        How many CVMs.
    hosts
        On which hosts; any when none are named.
    """

    def __init__(self, cluster: Cluster, count: int, *hosts: str) -> None:
        self.cluster = cluster
        fitting = [each for each in cluster.records if not hosts or each.host in hosts]
        self.cvms: Sequence[CvmRecord] = fitting[:count]
        assert len(self.cvms) == count
        for machine in cluster.machines.values():
            machine.start_vms()
            machine.reset_gauge()
        self._offsets = {
            name: machine.journal.stat().st_size for name, machine in cluster.machines.items()
        }
        self.batches: dict[str, int] = {}
        """How many stops were accepted in each."""
        self.key = str(uuid.uuid4())

    @property
    def ids(self) -> list[str]:
        return [each.hash_id for each in self.cvms]

    def ask(self, *, timeout: float = 15.0) -> httpx.Response:
        """Post the batches, one for each 50, up to the first that is refused; gives its answer.

        When none is, the last answer. The same requests each time.
        """
        answer = None
        with self.cluster.api(timeout=timeout) as client:
            for first in range(0, len(self.cvms), 50):
                answer = client.post(
                    "/api/v1/cvms/batch-stop",
                    json={"cvm_ids": self.ids[first : first + 50]},
                    headers={"Idempotency-Key": f"{self.key}-{first}"},
                )
                if answer.status_code != 200:
                    return answer
                self._note(answer)
        assert answer is not None
        return answer

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Post the batches from another thread, as often as it takes, until they are accepted."""

        def ask() -> None:
            while True:
                with suppress(httpx.TransportError):
                    if self.ask().status_code == 200:
                        return

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        yield
        thread.join()

    def accept(self) -> None:
        """Post the batches; every CVM must be taken."""
        before = len(self.batches)
        answer = self.ask()
        assert answer.status_code == 200, answer.text
        assert len(self.rows()) == len(self.cvms)
        assert len(self.batches) > before

    def _note(self, answer: httpx.Response) -> None:
        body = answer.json()
        assert body["stopped"] == body["total"], body
        self.batches[answer.headers["X-Batch-Id"]] = body["stopped"]

    def rows(self) -> list[dict[str, Any]]:
        """Give the stops as they are now, each a whole row."""
        found = self.cluster.query(
            "SELECT to_jsonb(stop_tasks) FROM stop_tasks WHERE batch_id = ANY(%s::uuid[])"
            " ORDER BY id",
            [list(self.batches)],
        )
        return [row[0] for row in found]

    def states(self) -> Counter[str]:
        """Count the states of the stops as they are now."""
        found = self.cluster.query(
            "SELECT state, count(*) FROM stop_tasks WHERE batch_id = ANY(%s::uuid[])"
            " GROUP BY state",
            [list(self.batches)],
        )
        return Counter(dict(found))

    def attempts(self) -> list[Attempt]:
        """Give the turns that were taken, in order."""
        found = self.cluster.query(
            "SELECT stop_task_id::text, number, stop_attempts.worker, outcome,"
            " stop_attempts.error_code"
            " FROM stop_attempts JOIN stop_tasks ON id = stop_task_id"
            " WHERE batch_id = ANY(%s::uuid[]) ORDER BY started_at",
            [list(self.batches)],
        )
        return [Attempt(*row) for row in found]

    def outcomes(self) -> Counter[str]:
        """Count what the turns ended in."""
        return Counter(attempt.outcome for attempt in self.attempts())

    def asked(self, method: str = "StopVm") -> Counter[str]:
        """Count by VM what its host was asked, by the host's own log."""
        wanted = {each.vm_uuid for each in self.cvms}
        found = Counter[str]()
        for name, machine in self.cluster.machines.items():
            with machine.journal.open("rb") as file:
                file.seek(self._offsets[name])
                for line in file:
                    entry = json.loads(line)
                    if entry["method"] == method and entry["vm_id"] in wanted:
                        found[entry["vm_id"]] += 1
        return found

    def wait_until(self, *states: str) -> None:
        """Wait until every stop is in one of some states."""
        eventually(
            lambda: self.states().keys() <= set(states),
            timeout=settling_time(self.cluster.settings()),
        )

    def wait_until_some(self, state: str, count: int = 1) -> None:
        """Wait until so many stops are in a state."""
        eventually(lambda: self.states()[state] >= count)

    def wait_until_ended(self) -> None:
        """Wait until every stop has ended."""
        self.wait_until("succeeded", "failed", "canceled")

    def assert_all_stopped(self) -> None:
        """Wait for the end: every CVM was accepted, and its stop ended well."""
        assert sum(self.batches.values()) == len(self.cvms)
        self.assert_accepted_stopped()

    def assert_accepted_stopped(self) -> None:
        """Wait for the end: what was accepted succeeded, its VM is down, no host was asked more."""
        self.wait_until_ended()
        rows = self.rows()
        assert len(rows) == sum(self.batches.values()) > 0
        wrong = [(row["error_code"], row["error_message"]) for row in rows]
        assert Counter(row["state"] for row in rows) == {"succeeded": len(rows)}, Counter(wrong)
        asked = self.asked()
        assert {row["vm_uuid"]: asked[row["vm_uuid"]] for row in rows} == {
            row["vm_uuid"]: min(asked[row["vm_uuid"]], row["attempt"]) for row in rows
        }
        for name, machine in self.cluster.machines.items():
            stopped = {row["vm_uuid"] for row in rows}
            statuses = {vm["status"] for vm in machine.state()["vms"] if vm["id"] in stopped}
            assert statuses <= {"stopped"}, (name, statuses)
