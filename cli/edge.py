"""Where commands meet the world: settings, the database, and how a failure is told.

A `CvmstopError` becomes one line on standard error and exit status 1; wrong usage is 2, as Typer
has it. Every command gets this from `cli.main`, and needs nothing of its own for it.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer

from shared.exceptions import CvmstopError


if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

    from shared.settings import DatabaseSettings


class DatabaseRefusedError(CvmstopError):
    """The database answered with an error, such as that its role may not do what was asked."""

    slug = "database_refused"


@contextmanager
def failures_told() -> Iterator[None]:
    """Tell a failure in a line instead of a traceback.

    Raises
    ------
    typer.Exit
        With status 1, after a failure was told.
    """
    try:
        yield
    except CvmstopError as error:
        typer.echo(f"cvmstop: {error.for_operators()}", err=True)
        raise typer.Exit(1) from None


@contextmanager
def database(
    settings: DatabaseSettings | None = None, *, application: str = "cli"
) -> Iterator[Engine]:
    """One command's engine. What the database refuses becomes a failure that can be told.

    Parameters
    ----------
    settings
        Already loaded ones; None loads them from the environment.
    application
        Name that PostgreSQL shows for the connections.

    Raises
    ------
    SettingsError
        An environment variable is missing or wrong.
    SchemaError
        A statement failed, and the schema is not this program's.
    DatabaseRefusedError
        A statement failed for another reason.
    """
    from sqlalchemy.exc import DBAPIError

    from shared.engine import make_engine
    from shared.schema import require_current_schema
    from shared.settings import DatabaseSettings

    engine = make_engine(settings or DatabaseSettings.load(), application=application)
    try:
        yield engine
    except DBAPIError as error:
        with suppress(DBAPIError):
            require_current_schema(engine)
        raise DatabaseRefusedError(_first_line(error.orig)) from error
    finally:
        engine.dispose()


@contextmanager
def session(settings: DatabaseSettings | None = None) -> Iterator[Session]:
    """One command's transaction: commits when the block ends, rolls back when it raises.

    Raises
    ------
    DatabaseUnavailableError
        The database does not answer. And what `database` raises.
    """
    from shared.database import transaction

    with database(settings) as engine, transaction(engine) as opened:
        yield opened


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0] if error else ""
