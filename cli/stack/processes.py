"""Which processes make up a stack, with which command and environment."""

from __future__ import annotations

import os
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING

from pydantic import SecretStr

from cli.stack import postgresql, probes, valkey
from cli.stack.child import ProcessSpec
from cli.stack.ports import ADDRESS
from shared.broker import HOUSEKEEPING_QUEUE, STOPS_QUEUE
from shared.settings import ENV_PREFIX


if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery

    from cli.stack.data_dir import DataDir, Secrets
    from cli.stack.simulation import SimulatedHost

DATABASE = "cvmstop"
"""Name of the database in the embedded server."""

FLOWER_USER = "operator"
"""Who logs in to Flower."""

FOREIGN_PREFIXES = ("CELERY_", "FLOWER_", "PG")
"""Variables of the caller that would change what our processes connect to, or open Flower's API.

Sources: `celery/app/utils.py`, `flower/command.py`, `flower/views/__init__.py`; libpq's manual.
"""

TURN_GRACE = 20.0
"""Seconds that workers get to finish their turns.

An ordinary turn takes five at most. Of one that is cut off nothing is lost: its lease runs out,
and another worker takes over.
"""

POSTGRESQL_GRACE = 15.0
"""Seconds that PostgreSQL gets for its last checkpoint."""

CLIENTS = ("api", "beat", "worker", "dispatcher", "flower")
"""Processes that use the database or the broker."""


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Copy an environment without what would lead our processes astray."""
    return {
        name: value for name, value in environment.items() if not name.startswith(FOREIGN_PREFIXES)
    }


def postgresql_process(data_dir: DataDir, port: int, secrets: Secrets) -> ProcessSpec:
    """Give the database server; its data directory must have been made."""
    return ProcessSpec(
        name="postgresql",
        command=_keeping_death_signal(postgresql.server_command(data_dir.postgresql, port)),
        environment=_without_ours(os.environ),
        log_file=data_dir.log_file("postgresql"),
        is_ready=partial(postgresql.is_ready, port, password=SecretStr(secrets.postgresql)),
        stop_signal=postgresql.STOP_SIGNAL,
        grace=POSTGRESQL_GRACE,
        ends_after=(*CLIENTS, "valkey"),
    )


def valkey_process(data_dir: DataDir, port: int, secrets: Secrets) -> ProcessSpec:
    """Give the broker's server; its configuration must have been written."""
    return ProcessSpec(
        name="valkey",
        command=valkey.server_command(data_dir.valkey_configuration),
        environment=_without_ours(os.environ),
        log_file=data_dir.log_file("valkey"),
        is_ready=partial(valkey.is_ready, port, SecretStr(secrets.valkey)),
        ends_after=CLIENTS,
    )


def simulated_host_process(data_dir: DataDir, host: SimulatedHost, port: int) -> ProcessSpec:
    """Give a simulated VM host; the file with its VMs must have been written."""
    options = [
        f"--port={port}",
        f"--vms-file={host.vms_file(data_dir)}",
        f"--log-file={host.journal(data_dir)}",
        *host.options,
    ]
    return ProcessSpec(
        name=host.name,
        command=[sys.executable, "-m", "cli", "simulate-host", *options],
        environment=_without_ours(os.environ),
        log_file=data_dir.log_file(host.name),
        is_ready=partial(probes.accepts_tcp, port),
        ends_after=("worker",),
    )


def api_process(data_dir: DataDir, port: int) -> ProcessSpec:
    """Give the API."""
    return ProcessSpec(
        name="api",
        command=[sys.executable, "-m", "cli", "api", f"--host={ADDRESS}", f"--port={port}"],
        environment=dict(os.environ),
        log_file=data_dir.log_file("api"),
        is_ready=partial(probes.answers_http, port, "/health/ready"),
    )


def worker_process(data_dir: DataDir, app: Celery) -> ProcessSpec:
    """Give the worker that takes turns with stops."""
    # Flower turns events on by itself, but only every 5 s: with -E it misses no stop.
    return _celery_worker("worker", STOPS_QUEUE, data_dir, app, "-E")


def dispatcher_process(data_dir: DataDir, app: Celery) -> ProcessSpec:
    """Give the worker that sends what is due: it runs while every slot of the other is busy."""
    return _celery_worker("dispatcher", HOUSEKEEPING_QUEUE, data_dir, app, "-c", "2")


def beat_process(data_dir: DataDir) -> ProcessSpec:
    """Give the clock that wakes the dispatcher. It listens nowhere: running is being ready."""
    return ProcessSpec(
        name="beat",
        command=_celery("beat"),
        environment=dict(os.environ),
        log_file=data_dir.log_file("beat"),
        is_ready=lambda: True,
    )


def flower_process(data_dir: DataDir, port: int, secrets: Secrets) -> ProcessSpec:
    """Give Flower, behind a password. `/healthcheck` and `/metrics` are open, by its design."""
    login = {"FLOWER_BASIC_AUTH": f"{FLOWER_USER}:{secrets.flower}"}
    return ProcessSpec(
        name="flower",
        command=_celery("flower", f"--address={ADDRESS}", f"--port={port}"),
        environment={**os.environ, **login},
        log_file=data_dir.log_file("flower"),
        is_ready=partial(probes.answers_http, port, "/healthcheck"),
    )


def _celery_worker(
    name: str, queue: str, data_dir: DataDir, app: Celery, *options: str
) -> ProcessSpec:
    node = f"{name}@{socket.gethostname()}"
    return ProcessSpec(
        name=name,
        command=_celery(
            *("worker", "-Q", queue, "-n", f"{name}@%h", "--without-gossip", "--without-mingle"),
            *options,
        ),
        environment=dict(os.environ),
        log_file=data_dir.log_file(name),
        is_ready=partial(probes.answers_ping, app, node),
        grace=TURN_GRACE,
        ends_after=("api", "beat"),
    )


def _celery(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", "workers.app", *arguments]


def _without_ours(environment: Mapping[str, str]) -> dict[str, str]:
    """Keep our settings, and the secrets among them, from who has no use for them."""
    return {name: value for name, value in environment.items() if not name.startswith(ENV_PREFIX)}


def _keeping_death_signal(command: list[str]) -> list[str]:
    """Have `setpriv`, where PostgreSQL needs it, keep what a change of user takes away.

    Source: prctl(2), PR_SET_PDEATHSIG: the setting is cleared when credentials change.
    """
    if not command[0].endswith("/setpriv"):
        return command
    return [command[0], "--pdeathsig=keep", *command[1:]]
