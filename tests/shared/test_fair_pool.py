"""Whoever waits longest for a place is next."""

from __future__ import annotations

import signal
import threading
from functools import partial

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from shared.engine import make_engine
from shared.fair_pool import Turnstile
from shared.settings import DatabaseSettings
from tests.support.ports import free_port
from tests.support.waiting import eventually


def _has_waiting(turnstile: Turnstile, count: int) -> bool:
    return len(turnstile._waiting) == count


def test_first_come_first_served() -> None:
    """Also for one who comes in the very moment in which a place becomes free."""
    turnstile = Turnstile(1)
    assert turnstile.enter(0)
    order: list[str] = []

    def wait(name: str) -> None:
        assert turnstile.enter(10)
        order.append(name)
        turnstile.leave()

    waiting = [threading.Thread(target=wait, args=(name,)) for name in ("first", "second")]
    for number, thread in enumerate(waiting, start=1):
        thread.start()
        eventually(partial(_has_waiting, turnstile, number))
    turnstile.leave()
    came_late = turnstile.enter(10)  # this thread runs, and those that wait have to be woken first
    order.append("late")
    for thread in waiting:
        thread.join()
    assert came_late
    assert order == ["first", "second", "late"]


def test_who_gives_up_leaves_no_trace() -> None:
    turnstile = Turnstile(1)
    assert turnstile.enter(0)
    assert not turnstile.enter(0.01)
    turnstile.leave()
    assert turnstile.enter(0)


def test_who_is_interrupted_leaves_no_trace() -> None:
    class InterruptionError(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise InterruptionError

    turnstile = Turnstile(1)
    assert turnstile.enter(0)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(InterruptionError):
            turnstile.enter(10)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    turnstile.leave()
    assert turnstile.enter(0)


def test_a_place_is_free_again_whatever_happens(engine: Engine) -> None:
    """A connection that cannot be made, and one that breaks, take none with them."""
    port = free_port()
    settings = DatabaseSettings(
        database_url=SecretStr(f"postgresql://postgres@127.0.0.1:{port}/none"),
        database_pool_size=1,
        database_timeout=1.0,
    )
    nowhere = make_engine(settings, application="test")
    for _ in range(3):
        with pytest.raises(OperationalError), nowhere.connect():
            pass
    url = engine.url.render_as_string(hide_password=False)
    one = make_engine(
        settings.model_copy(update={"database_url": SecretStr(url)}), application="test"
    )
    for _ in range(3):
        with one.connect() as connection:
            connection.execute(text("SELECT 1"))
            connection.invalidate()
    with one.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    one.dispose()
