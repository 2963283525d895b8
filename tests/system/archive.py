"""A million CVMs and a million stops on record, for those who look at plans."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import text

from bench.loading import PER_BATCH, Rows, load
from shared.database import transaction
from shared.engine import make_engine
from shared.models.callers import Caller
from shared.models.states import UserRole
from shared.schema import upgrade
from tests.support.seeds import make_caller, make_workspace


if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import SecretStr
    from sqlalchemy import Engine

    from shared.settings import Settings
    from tests.support.postgresql import PostgresqlServer

ROWS = Rows(
    cvms=1_000_000, hosts=1_000, workspaces=100, finished=1_000_000, open=5_000, drifted=1_000
)


@dataclass(frozen=True, kw_only=True)
class Archive:
    """The database, and who asks it."""

    engine: Engine
    settings: Settings
    member: Caller
    admin: Caller
    api_key: str
    numbers: Iterator[int]

    def next_batch(self) -> tuple[str, ...]:
        """Name 50 CVMs of the member's workspace that no test has named."""
        first = next(self.numbers) * PER_BATCH * ROWS.workspaces * 5
        return tuple(
            f"cvm_{first + block * PER_BATCH * ROWS.workspaces + place:08d}"
            for block in range(5)
            for place in range(PER_BATCH)
        )

    def one(self, what: str) -> Any:
        """Read one value: `what` is all that comes after SELECT."""
        with self.engine.connect() as connection:
            return connection.execute(text(f"SELECT {what}")).scalar_one()


@contextmanager
def made_archives(server: PostgresqlServer, settings: Settings) -> Iterator[dict[str, Archive]]:
    """Make the same rows twice, and drop them with the block.

    `before`: PostgreSQL has counted them when no stop was open. `since`: it has counted them again.
    """
    before = _settings(settings, server.create_database("before"))
    engine = make_engine(before, application="tests")
    upgrade(engine)
    callers, api_keys = {}, {}
    with transaction(engine) as session:
        workspace = make_workspace(session)
        for role in UserRole:
            callers[role], api_keys[role] = make_caller(
                session, workspace, admin=role is UserRole.ADMIN
            )
    engine.dispose()
    load(before.database_url.get_secret_value(), ROWS, callers[UserRole.USER])
    with _administering(settings) as connection:
        connection.execute("CREATE DATABASE since TEMPLATE before STRATEGY file_copy")
    since = _settings(settings, server.create_database("since"))
    with psycopg.connect(since.database_url.get_secret_value()) as connection:
        connection.execute("ANALYZE")
    made = {
        name: Archive(
            engine=make_engine(each, application="tests"),
            settings=each,
            member=callers[UserRole.USER],
            admin=callers[UserRole.ADMIN],
            api_key=api_keys[UserRole.USER],
            numbers=count(),
        )
        for name, each in {"before": before, "since": since}.items()
    }
    yield made
    # They take a gigabyte each.
    with _administering(settings) as connection:
        for name, archive in made.items():
            archive.engine.dispose()
            connection.execute(f"DROP DATABASE {name}".encode())


def _settings(settings: Settings, url: SecretStr) -> Settings:
    return settings.model_copy(update={"database_url": url, "database_timeout": 60.0})


def _administering(settings: Settings) -> psycopg.Connection[tuple[Any, ...]]:
    return psycopg.connect(settings.database_url.get_secret_value(), autocommit=True)
