"""A private PostgreSQL server for the tests."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirakuru import TCPExecutor

from cli.stack import postgresql
from tests.support.ports import free_port


if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pydantic import SecretStr

TEST_SETTINGS = {"fsync": "off", "max_connections": "200"}
"""Nobody minds losing this data; many engines may be open at once."""


@dataclass(frozen=True)
class PostgresqlServer:
    """A server that runs; without a password everybody on this machine may connect."""

    port: int
    _executor: TCPExecutor = field(repr=False, compare=False)

    def stop(self) -> None:
        """Stop it, and everything that is connected to it."""
        self._executor.stop()

    def start(self) -> None:
        """Start it again, on the same data and the same port."""
        self._executor.start()

    def create_database(self, name: str) -> SecretStr:
        """Create an empty database and say where it is."""
        postgresql.ensure_database(self.port, name)
        return postgresql.database_url(self.port, name)


class _Executor(TCPExecutor):
    password: SecretStr | None = None

    def after_start_check(self) -> bool:
        """Wait until it lets us in: it listens a moment before it does."""
        return postgresql.is_ready(self.port, password=self.password)


@contextmanager
def running_postgresql(
    directory: Path,
    *,
    password: SecretStr | None = None,
    settings: Mapping[str, str] = TEST_SETTINGS,
) -> Iterator[PostgresqlServer]:
    """Start a server with its data in a directory, and end it with the block."""
    data_dir = directory / "postgresql"
    postgresql.initialise(data_dir, password=password)
    port = free_port()
    with (directory / "postgresql.log").open("w") as log:
        executor = _Executor(
            postgresql.server_command(data_dir, port, settings=settings),
            host=postgresql.HOST,
            port=port,
            timeout=30,
            sleep=0.02,
            stop_signal=postgresql.STOP_SIGNAL,
            stdout=log,
            stderr=log,
        )
        executor.password = password
        with executor:
            yield PostgresqlServer(port, executor)
