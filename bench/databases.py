"""Databases of one server, each with a schema and somebody who asks, to be measured in turns."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr
from sqlalchemy import text

from bench.loading import Rows
from shared.database import transaction
from shared.engine import make_engine
from shared.models.callers import Caller
from shared.schema import upgrade
from shared.sealing import new_sealing_key
from shared.settings import Settings
from tests.support.seeds import make_caller, make_workspace


if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from tests.support.postgresql import PostgresqlServer

NO_ROWS = Rows(cvms=0)
"""For who writes them otherwise."""

NO_BROKER = SecretStr("redis://127.0.0.1:1/0")


@dataclass(frozen=True, kw_only=True)
class Database:
    """One side of a comparison."""

    settings: Settings
    engine: Engine
    caller: Caller
    content: Rows
    """What it is to be filled with."""
    wall: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Milliseconds of each step, round by round."""
    cpu: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """The same in CPU time: of this thread and of PostgreSQL's backend for it."""

    @property
    def url(self) -> str:
        """Where it is."""
        return self.settings.database_url.get_secret_value()

    def execute(self, statement: str) -> None:
        """Run one statement, and commit."""
        with transaction(self.engine) as session:
            session.execute(text(statement))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure the block as one round of a step; one connection at a time in it."""
        with transaction(self.engine) as session:
            backend = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        cpu, wall = _cpu(backend), time.perf_counter()
        yield
        self.wall[name].append((time.perf_counter() - wall) * 1000)
        self.cpu[name].append((_cpu(backend) - cpu) * 1000)


def make_database(server: PostgresqlServer, name: str, content: Rows = NO_ROWS) -> Database:
    """Create a database with the newest schema and an admin."""
    settings = Settings(
        database_url=server.create_database(name),
        broker_url=NO_BROKER,
        sealing_keys=SecretStr(new_sealing_key()),
        database_timeout=60,
    )
    engine = make_engine(settings, application="bench")
    upgrade(engine)
    with transaction(engine) as session:
        caller, _ = make_caller(session, make_workspace(session), admin=True)
    return Database(settings=settings, engine=engine, caller=caller, content=content)


def _cpu(process: int) -> float:
    """Seconds of CPU that this thread and a process of PostgreSQL have used, to the microsecond."""
    # Its first number: nanoseconds on a CPU (Linux, Documentation/scheduler/sched-stats.rst).
    used = int(Path(f"/proc/{process}/schedstat").read_text().split()[0])
    return time.thread_time() + used / 1e9
