"""Transactions, and a database that does not answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select, text

from shared.database import transaction, unbounded
from shared.engine import BoundedConnection, make_engine
from shared.exceptions import DatabaseUnavailableError


if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

    from shared.settings import Settings


@pytest.fixture
def impatient(settings: Settings) -> Iterator[Engine]:
    """Give an engine with one connection that waits for an answer for a moment only."""
    short = settings.model_copy(update={"database_timeout": 0.2, "database_pool_size": 1})
    made = make_engine(short, application="tests")
    yield made
    made.dispose()


def test_a_server_that_does_not_answer(impatient: Engine) -> None:
    """It does not keep to its own time-outs either."""
    with pytest.raises(DatabaseUnavailableError), transaction(impatient) as session:
        session.execute(text("SET statement_timeout = 0"))
        session.execute(text("SELECT pg_sleep(60)"))
    with transaction(impatient) as session:
        assert session.execute(text("SELECT 1")).scalar_one() == 1


def test_a_statement_that_takes_too_long(impatient: Engine) -> None:
    with pytest.raises(DatabaseUnavailableError), transaction(impatient) as session:
        session.execute(text("SELECT pg_sleep(60)"))


def test_without_bounds_for_one_transaction(impatient: Engine) -> None:
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    ask = select(*(func.current_setting(name) for name in names))

    def bounds(session: Session) -> tuple[list[str], float | None]:
        driver = session.connection().connection.driver_connection
        assert isinstance(driver, BoundedConnection)
        return list(session.execute(ask).one()), driver.answer_timeout

    with (
        pytest.raises(ZeroDivisionError),
        transaction(impatient) as session,
        unbounded(session.connection()),
    ):
        assert bounds(session) == (["0", "0", "0"], None)
        raise ZeroDivisionError
    with transaction(impatient) as session:
        assert bounds(session) == (["200ms", "200ms", "200ms"], 1.2)


def test_no_connection_is_free(impatient: Engine) -> None:
    with (
        impatient.connect(),
        pytest.raises(DatabaseUnavailableError, match="became free"),
        transaction(impatient) as session,
    ):
        session.execute(text("SELECT 1"))


def test_what_raises_is_rolled_back(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError), transaction(engine) as session:
        session.execute(text("CREATE TABLE half_done ()"))
        raise ZeroDivisionError
    with transaction(engine) as session:
        assert session.execute(text("SELECT to_regclass('half_done')")).scalar_one() is None
