"""Measures what the sync of a host's list takes: its own time, without the host's.

`python -m bench.inventory_sync` starts a PostgreSQL and prints, for lists of 1,000 VMs, the median
time of the whole transaction, the slowest, and the statements in it (BEGIN and COMMIT not among
them). The goal is 2 seconds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import typer
from sqlalchemy import text

from bench.databases import make_database
from shared.database import transaction
from shared.models.inventory import ListedVm
from shared.models.states import PowerState
from shared.services.inventory_sync import write_list
from tests.support.postgresql import running_postgresql
from tests.support.seeds import make_host


if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from bench.databases import Database

VMS = 1_000

ROUNDS = 10
"""Each on a host of its own, in one database."""

STOPPED = """
WITH batch AS (
    INSERT INTO stop_batches (workspace_id, user_id, api_key_id, by_admin, request_id, total,
                              stopped, skipped, errors)
    VALUES (:workspace, :user, :key, true, 'bench', 0, 0, 0, '[]') RETURNING id
)
INSERT INTO stop_tasks (batch_id, cvm_id, workspace_id, vm_host_id, vm_uuid, request_id, state,
                        deadline_at, finished_at)
SELECT batch.id, cvms.id, workspace_id, vm_host_id, vm_uuid, 'bench', 'succeeded', now(), now()
FROM batch, cvms, generate_series(1, 5) WHERE vm_host_id = :host
"""
"""Five stops of each CVM of a host, of which the newest has succeeded."""


class Bench:
    """Syncs hosts and keeps what each kind of sync took."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._statements: dict[str, list[int]] = defaultdict(list)
        self._sent = 0

    def count_statements(self) -> None:
        """Count from now on what is sent to the database."""
        execute = psycopg.Cursor.execute

        def count(cursor: psycopg.Cursor[Any], *arguments: Any, **named: Any) -> Any:
            self._sent += 1
            return execute(cursor, *arguments, **named)

        psycopg.Cursor.execute = count  # type: ignore[method-assign,assignment] # to the end of this process

    def round(self, number: int) -> None:
        """Take one host through all that a list may bring."""
        with transaction(self._database.engine) as session:
            host = make_host(session)
            host.adopts_into = self._database.caller.workspace_id
            host_id = host.id
        running = [
            ListedVm(vm_uuid=f"vm-{number}-{vm}", name=f"vm {vm}", power_state=PowerState.RUNNING)
            for vm in range(VMS)
        ]
        down = [
            ListedVm(vm_uuid=vm.vm_uuid, name=vm.name, power_state=PowerState.STOPPED)
            for vm in running
        ]
        self._sync("all are adopted", host_id, running)
        self._sync("nothing is new", host_id, running)
        self._alter("UPDATE cvms SET seen_at = NULL WHERE vm_host_id = :host", host_id)
        self._sync("all are seen again", host_id, running)
        self._sync("all have another status", host_id, down)
        self._alter(STOPPED, host_id)
        self._sync("all run again after a stop", host_id, running)
        self._sync("all of those drift already", host_id, running)
        self._sync("all have vanished", host_id, [])
        self._alter("UPDATE vm_hosts SET adopts_into = NULL WHERE id = :host", host_id)
        strangers = [
            ListedVm(vm_uuid=f"{vm.vm_uuid}-x", name="x", power_state=vm.power_state)
            for vm in running
        ]
        self._sync("all are back, as many unknown", host_id, [*running, *strangers])

    def report(self) -> None:
        """Print a line for each kind of sync."""
        typer.echo(f"{'of ' + str(VMS) + ' VMs':32} {'median':>10} {'slowest':>10}   statements")
        for name, seconds in self._seconds.items():
            median, slowest = statistics.median(seconds) * 1000, max(seconds) * 1000
            typer.echo(
                f"{name:32} {median:7.0f} ms {slowest:7.0f} ms   {max(self._statements[name])}"
            )

    def _sync(self, name: str, host_id: UUID, vms: Sequence[ListedVm]) -> None:
        with transaction(self._database.engine) as session:
            asked_at = session.execute(text("SELECT clock_timestamp()")).scalar_one()
        sent, began = self._sent, time.perf_counter()
        with transaction(self._database.engine) as session:
            counts = write_list(session, host_id, vms, asked_at=asked_at)
        self._seconds[name].append(time.perf_counter() - began)
        self._statements[name].append(self._sent - sent)
        assert counts is not None  # noqa: S101 - nobody else syncs

    def _alter(self, statement: str, host_id: UUID) -> None:
        caller = self._database.caller
        values = {
            "host": host_id,
            "workspace": caller.workspace_id,
            "user": caller.user_id,
            "key": caller.api_key_id,
        }
        with transaction(self._database.engine) as session:
            names = text(statement)._bindparams  # noqa: SLF001 - the statement's own names
            session.execute(text(statement), {name: values[name] for name in names})


def main() -> None:
    """Measure, and print a line for each kind of sync."""
    with tempfile.TemporaryDirectory() as directory, running_postgresql(Path(directory)) as server:
        database = make_database(server, "inventory_sync")
        bench = Bench(database)
        bench.count_statements()
        for number in range(ROUNDS):
            bench.round(number)
        bench.report()
        database.engine.dispose()


if __name__ == "__main__":
    main()
