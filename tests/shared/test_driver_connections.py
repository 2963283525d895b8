"""The driver's connections that go around the session: none comes back in somebody's state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from shared.database import driver_transaction, single_statement, transaction
from shared.engine import make_engine
from shared.exceptions import DatabaseUnavailableError


if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from shared.settings import Settings


@pytest.fixture
def one(settings: Settings) -> Iterator[Engine]:
    """Give an engine with one connection, which everybody gets."""
    made = make_engine(settings.model_copy(update={"database_pool_size": 1}), application="tests")
    yield made
    made.dispose()


def number_of(engine: Engine) -> int:
    """Give the number of the server's process behind the connection."""
    with single_statement(engine) as connection:
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


def end(engine: Engine, number: int) -> None:
    """End a connection at the server, and see it gone."""
    with transaction(engine) as session:
        session.execute(text("SELECT pg_terminate_backend(:number, 5000)"), {"number": number})


def test_after_a_single_statement_transactions_are_transactions(one: Engine) -> None:
    number_of(one)
    with pytest.raises(ZeroDivisionError), transaction(one) as session:
        session.execute(text("CREATE TABLE half_done ()"))
        raise ZeroDivisionError
    with transaction(one) as session:
        assert session.execute(text("SELECT to_regclass('half_done')")).scalar_one() is None


def test_a_transaction_that_was_left_open_is_nobody_elses(one: Engine) -> None:
    with single_statement(one) as connection:
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE left_open ()")
    with transaction(one) as session:
        assert session.execute(text("SELECT to_regclass('left_open')")).scalar_one() is None


@pytest.mark.parametrize("lend", [driver_transaction, single_statement])
def test_one_that_breaks_is_an_outage_and_is_replaced(
    one: Engine, engine: Engine, lend: type, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DatabaseUnavailableError), lend(one) as connection:
        end(engine, connection.info.backend_pid)
        connection.execute("SELECT 1")
    number_of(one)
    assert caplog.messages == []  # the pool's own way is to try it, and to log a traceback


def test_one_that_broke_while_nobody_used_it_is_replaced(
    one: Engine, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.engine.PING_AFTER", 0.0)
    before = number_of(one)
    end(engine, before)
    assert number_of(one) != before


def test_one_that_was_used_a_moment_ago_is_not_tried_first(
    one: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    number_of(one)
    pings: list[object] = []
    monkeypatch.setattr(one.dialect, "do_ping", pings.append)
    number_of(one)
    assert pings == []
