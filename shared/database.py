"""Transactions, on SQLAlchemy's session or on the driver's connection, and what an outage is."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from shared.exceptions import DatabaseUnavailableError


if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

    from shared.engine import BoundedConnection


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
