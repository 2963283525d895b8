"""The engine, transactions, and whether the schema is the one this program needs."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    InvalidatePoolError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from shared.exceptions import DatabaseUnavailableError, SchemaError, SettingsError
from shared.fair_pool import FairQueuePool


if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.config import Config
    from psycopg.abc import PQGen
    from sqlalchemy import Connection, Engine
    from sqlalchemy.pool import ConnectionPoolEntry

    from shared.settings import DatabaseSettings

Answer = TypeVar("Answer")

MIGRATIONS = Path(__file__).parent.parent / "migrations"
"""Where Alembic's scripts are."""

PING_AFTER = 1.0
"""Seconds after which a connection that nobody has used is tried first.

PostgreSQL is back about a second after it was killed, so that what was open then is tried.
"""

IDLE_SINCE = "idle_since"
"""Where a pooled connection's entry keeps the `time.monotonic()` of its last use."""

MIGRATE_COMMAND = "cvmstop migrate"
"""The command that brings a schema up."""


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


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """One transaction: commits when the block ends, rolls back when it raises.

    Only the edge (a route, a task, a command) opens one; nothing below it commits.

    Raises
    ------
    DatabaseUnavailableError
        The database does not answer, or not in time. Nothing was written, unless the connection
        broke during the commit itself: then that is not known.
    """
    with translate_outages(), Session(engine) as session, session.begin():
        yield session


@contextmanager
def driver_transaction(engine: Engine) -> Iterator[psycopg.Connection[Any]]:
    """One transaction as `transaction` is, on the driver's connection: for what is done most.

    SQLAlchemy's session and its connection would take longer than the driver does for everything.

    Raises
    ------
    DatabaseUnavailableError
        As `transaction` raises it.
    """
    with _driver_connection(engine) as connection, connection.transaction():
        yield connection


@contextmanager
def single_statement(engine: Engine) -> Iterator[psycopg.Connection[Any]]:
    """Lend a connection for one statement, which is a transaction of its own.

    That saves the trips that begin and end one.

    Raises
    ------
    DatabaseUnavailableError
        As `transaction` raises it.
    """
    with _driver_connection(engine) as connection:
        connection.autocommit = True
        try:
            yield connection
        finally:
            if connection.info.transaction_status != TransactionStatus.IDLE:
                connection.close()  # whatever was begun would be somebody else's
            if not connection.closed:
                connection.autocommit = False


def driver_of(session: Session) -> psycopg.Connection[Any]:
    """Give the driver's connection of a session, in the session's transaction."""
    return cast("psycopg.Connection[Any]", session.connection().connection.driver_connection)


@contextmanager
def _driver_connection(engine: Engine) -> Iterator[psycopg.Connection[Any]]:
    """Lend the driver's connection of one from the pool; a broken one does not go back."""
    with translate_outages():
        pooled = engine.raw_connection()
        connection = cast("psycopg.Connection[Any]", pooled.driver_connection)
        try:
            yield connection
        except psycopg.Error as error:
            if not connection.broken:
                raise
            msg = "the database connection broke"
            raise DatabaseUnavailableError(msg, _first_line(error)) from error
        finally:
            if connection.closed:
                pooled.invalidate()
            else:
                pooled.close()


@contextmanager
def unbounded(connection: Connection) -> Iterator[None]:
    """Let statements and waits for locks take their time: for imports and migrations.

    Parameters
    ----------
    connection
        One of `make_engine`'s. PostgreSQL's time-outs are lifted until its transaction ends; the
        wait for an answer, which holds for the whole connection, has its bound again when the
        block ends. So a commit after the block has that bound too.
    """
    connection.exec_driver_sql(
        "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0;"
        " SET LOCAL idle_in_transaction_session_timeout = 0"
    )
    driver = cast("BoundedConnection", connection.connection.driver_connection)
    bound, driver.answer_timeout = driver.answer_timeout, None
    try:
        yield
    finally:
        driver.answer_timeout = bound


@contextmanager
def translate_outages() -> Iterator[None]:
    """Turn the driver's many ways to say 'no database' into one.

    Raises
    ------
    DatabaseUnavailableError
        For each of them. A query that is wrong stays what it is.
    """
    try:
        yield
    except PoolTimeoutError as error:
        msg = "no database connection became free in time"
        raise DatabaseUnavailableError(msg) from error
    except (OperationalError, InterfaceError) as error:
        msg = "the database does not answer"
        raise DatabaseUnavailableError(msg, _first_line(error.orig)) from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        msg = "the database does not answer"
        raise DatabaseUnavailableError(msg, _first_line(error)) from error
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        msg = "the database connection broke"
        raise DatabaseUnavailableError(msg, _first_line(error.orig)) from error


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0]


def alembic_config() -> Config:
    """Alembic's configuration; there is no ini file."""
    from alembic.config import Config  # noqa: PLC0415 - only where it is used: it takes 0.1 s

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def schema_problem(session: Session) -> str | None:
    """Say what is wrong with the schema, and the command that mends it; None when it is current."""
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415 - as above
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - as above

    wanted = ScriptDirectory.from_config(alembic_config()).get_current_head()
    found = MigrationContext.configure(session.connection()).get_current_revision()
    if found == wanted:
        return None
    if found is None:
        return f"the database has no cvmstop schema yet: run `{MIGRATE_COMMAND}`"
    return (
        f"the database's schema is at revision {found}, this version needs {wanted}:"
        f" run `{MIGRATE_COMMAND}` from this version, or start the version that made it"
    )


def require_current_schema(engine: Engine) -> None:
    """Refuse to go on with another schema than this program's.

    Raises
    ------
    SchemaError
        The schema is missing, older or newer; the message names the command that brings it up.
    DatabaseUnavailableError
        The database does not answer.
    """
    with transaction(engine) as session:
        problem = schema_problem(session)
    if problem:
        raise SchemaError(problem)
