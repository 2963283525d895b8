"""The services of `docker-compose.yml` without Docker, as local processes.

What is emulated: profiles, dependencies, configs, commands, environments, health checks, and the
foreign images of PostgreSQL and Valkey. Each service's name becomes 127.0.0.1, and each of its
ports a free one, or the published one. Containers themselves, networks and restarts are not, nor
what only watches.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.support.compose import ROOT, container_ports
from tests.support.compose_images import make_role_and_database, postgres_command, write_programs
from tests.support.ports import free_port


NOT_HERE = ("prom/", "grafana/")
"""Images whose programs no wheel has; `tests/test_compose.py` looks at their services."""

PATIENCE = 60.0
"""Seconds after which a wait for something that must happen is a failed test."""


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
    _paths: list[Path] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._ports = {
            name: {p: published or free_port() for p, published in container_ports(s).items()}
            for name, s in self.services.items()
        }
        self._paths = write_programs(self.directory / "bin")
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes.values()):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    @property
    def services(self) -> dict[str, Any]:
        """Each service of the file, profiles or not, but for those that only watch the others."""
        services: dict[str, Any] = self.document["services"]
        return {
            name: service
            for name, service in services.items()
            if not service["image"].startswith(NOT_HERE)
        }

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
            [port] = self._ports[name].values()
            make_role_and_database(service["environment"], port, PATIENCE)

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
            [port] = self._ports[name].values()
            data_dir = self.directory / "pgdata"
            return postgres_command(command, service["environment"], data_dir, port)
        if service["image"].startswith("valkey/"):
            return [*command, "--bind", "127.0.0.1"]  # a container has an address of its own
        return command

    def _environment(self, name: str) -> dict[str, str]:
        """Give a service's whole environment; nothing of ours gets into it."""
        paths = [*self._paths, Path(sys.executable).parent, "/usr/bin", "/bin"]
        own = self.services[name].get("environment", {})
        return {
            "PATH": ":".join(map(str, paths)),
            "HOME": str(self.directory),
            "HOSTNAME": socket.gethostname(),
            **{key: self._with_hosts(self._own(name, str(v))) for key, v in own.items()},
        }

    def _local(self, name: str, text: str) -> str:
        """Put this machine's ports into what a service says about itself."""
        text = text.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - it is taken away
        for inner, outer in self._ports[name].items():
            text = re.sub(rf"(?<!\d){inner}(?!\d)", str(outer), text)
        return text

    def _own(self, name: str, text: str) -> str:
        """Put this machine's place for what a service listens on, or writes to."""
        if text == "0.0.0.0" or text.isdigit():  # noqa: S104 - it is taken away
            return self._local(name, text)
        return self._in_tmp(name, text)

    def _in_tmp(self, name: str, text: str) -> str:
        """Put a directory of its own where a service has its own /tmp."""
        if not text.startswith("/tmp/"):  # noqa: S108 - of a container
            return text
        directory = self.directory / f"{name}-tmp"
        directory.mkdir(exist_ok=True)
        return str(directory / text.removeprefix("/tmp/"))  # noqa: S108 - as above

    def _with_hosts(self, text: str) -> str:
        """Put this machine's ports where other services are named."""
        for name, ports in self._ports.items():
            for inner, outer in ports.items():
                text = re.sub(rf"(?<=[@/]){name}:{inner}\b", f"127.0.0.1:{outer}", text)
        return text
