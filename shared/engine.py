"""The engine of one process: its connections, how long they wait, and when they are tried."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, InvalidatePoolError

from shared.exceptions import SettingsError
from shared.fair_pool import FairQueuePool


if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from sqlalchemy import Engine
    from sqlalchemy.pool import ConnectionPoolEntry

    from shared.settings import DatabaseSettings

Answer = TypeVar("Answer")

PING_AFTER = 1.0
"""Seconds after which a connection that nobody has used is tried first.

PostgreSQL is back about a second after it was killed, so that what was open then is tried.
"""

IDLE_SINCE = "idle_since"
"""Where a pooled connection's entry keeps the `time.monotonic()` of its last use."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that waits for the server no longer than a bound.

    PostgreSQL's own time-outs need a server that runs. One that hangs (a frozen machine, a full
    disk, a network that swallows everything) would hold a thread for ever.
    """

    answer_timeout: float | None = None
    """Longest wait for the answer to one command; None for no bound."""

    def wait(
        self, gen: PQGen[Answer], interval: float = 0.1, timeout: float | None = None
    ) -> Answer:
        """Wait for the server, as `psycopg.Connection.wait` does, within the bound.

        Raises
        ------
        psycopg.OperationalError
            There was no answer in time. The connection is closed: what it would say next belongs
            to the command that was given up.
        """
        try:
            return super().wait(gen, interval, timeout or self.answer_timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.close()
            raise


def make_engine(settings: DatabaseSettings, *, application: str) -> Engine:
    """Make the engine of one process.

    Parameters
    ----------
    settings
        Gives the URL, the pool's size and every time-out.
    application
        Name that PostgreSQL shows for the connections (`application_name`).

    Raises
    ------
    SettingsError
        The URL is none.
    """
    try:
        url = make_url(settings.database_url.get_secret_value())
    except (ArgumentError, ValueError):
        msg = "CVMSTOP_DATABASE_URL: not a URL; postgresql://user:password@host:port/name is wanted"
        raise SettingsError([msg]) from None
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args=_connect_args(settings, application),
        poolclass=FairQueuePool,
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=settings.database_timeout,
        hide_parameters=True,
    )
    _ping_idle_connections(engine)

    @event.listens_for(engine, "do_connect")
    def connect(_: object, __: object, arguments: list[Any], options: dict[str, Any]) -> Any:
        connection = BoundedConnection.connect(*arguments, **options)
        # A little later than the server's own time-out, whose message says more.
        connection.answer_timeout = settings.database_timeout + 1
        return connection

    return engine


async def connect_to_listen(
    engine: Engine, settings: DatabaseSettings, *, application: str
) -> psycopg.AsyncConnection[Any]:
    """Open a connection of no pool, for a process that waits to be told of something.

    Each statement is a transaction of its own on it. What psycopg raises is not translated here.
    """
    _, options = engine.dialect.create_connect_args(engine.url)
    return await psycopg.AsyncConnection.connect(
        **{**options, **_connect_args(settings, application)}, autocommit=True
    )


def _ping_idle_connections(engine: Engine) -> None:
    """Try a connection before it is used, unless it was used a moment ago.

    A ping is a trip to the server, as a statement is: before each use it made a claim a fifth
    slower. A connection that broke within the moment fails the one who uses it: a request is
    answered 503, a turn is settled again, and a message is sent again.
    """

    @event.listens_for(engine, "checkin")
    def note(_: object, record: ConnectionPoolEntry) -> None:
        record.info[IDLE_SINCE] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def ping(connection: BoundedConnection, record: ConnectionPoolEntry, _: object) -> None:
        idle_since = record.info.get(IDLE_SINCE)
        if idle_since is None or time.monotonic() - idle_since < PING_AFTER:
            return
        try:
            engine.dialect.do_ping(connection)  # type: ignore[arg-type] # a driver's connection, as it wants
        except psycopg.Error as error:
            # The others are as old: each is replaced when its turn comes.
            raise InvalidatePoolError from error


def _connect_args(settings: DatabaseSettings, application: str) -> dict[str, Any]:
    milliseconds = int(settings.database_timeout * 1000)
    return {
        "application_name": f"cvmstop-{application}",
        # libpq counts in whole seconds and takes less than 2 as 2.
        "connect_timeout": max(2, round(settings.database_timeout)),
        # A peer that vanished is noticed within about 11 s, also by a connection that only waits.
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": milliseconds,
        "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
        # A frozen process must not hold a host's row, and with it all workers, for long.
        f" -c idle_in_transaction_session_timeout={milliseconds} -c timezone=UTC",
    }
