"""A handle on every part of cvmstop, each a process of its own, with proxies in between.

`assembly.py` puts it together.
"""

from __future__ import annotations

import os
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from threading import Lock
from typing import TYPE_CHECKING, Any, LiteralString
from uuid import UUID

import httpx
import psycopg
from pydantic import SecretStr
from redis import Redis
from redis.exceptions import RedisError

from cli.stack import postgresql, probes, valkey
from cli.stack.ports import ADDRESS
from shared import failpoints
from shared.broker import Broker, make_celery
from shared.models.turns import DueStop
from shared.sealing import new_sealing_key
from shared.settings import Settings
from tests.support.waiting import eventually
from tests.system.faults.machines import WELL
from tests.system.faults.part import Part


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from celery import Celery

    from shared.failpoints import Action, Failpoint
    from shared.models.inventory import CvmRecord
    from tests.system.faults.certificates import Certificates
    from tests.system.faults.machines import Machine
    from tests.system.faults.small_disk import SmallDisk
    from tests.system.faults.tcp_proxy import TcpProxy

SETTINGS = {
    "LEASE": "6",
    "TURN_LIMIT": "5",
    "HOST_CONNECT_TIMEOUT": "1",
    "HOST_QUERY_TIMEOUT": "1.5",
    "HOST_STOP_TIMEOUT": "2.5",
    "LOOK_SECONDS": "0.5",
    "LOOK_INTERVAL": "0.1",
    "CONFIRM_INTERVAL": "0.5",
    "CONFIRM_INTERVAL_MAX": "2",
    "REISSUE_AFTER": "3",
    "RESTART_GUARD": "1",
    "BREAKER_COOLDOWN": "1",
    "RETRY_BACKOFF": "0.5",
    "RETRY_BACKOFF_MAX": "2",
    "RESEND_AFTER": "1.5",
    "DISPATCH_INTERVAL": "0.5",
    "STOP_MAX_FAILURES": "20",
    "STOP_DEADLINE": os.environ.get("CVMSTOP_FAULTS_STOP_DEADLINE", "180"),
    "DATABASE_TIMEOUT": "2",
    "RATE_LIMIT": "",
}
"""What differs from the defaults: time to wait for in a test, most of it a tenth."""

WORKERS = ("worker-1", "worker-2")

OURS = ("api", *WORKERS, "dispatcher", "beat")
"""Parts of cvmstop itself."""

DATABASE = "cvmstop"


@dataclass(kw_only=True)
class Cluster:
    """All of it.

    `worker-2` and the API reach the database through a proxy, and everybody the broker.
    """

    directory: Path
    """For data and logs."""
    records: Sequence[CvmRecord]
    """The CVMs that there are."""
    ports: Mapping[str, int]
    """Where servers listen themselves, by their names."""
    database_disk: SmallDisk
    broker_disk: SmallDisk
    database_proxy: TcpProxy
    broker_proxy: TcpProxy
    host_proxy: TcpProxy
    certificates: Certificates
    parts: dict[str, Part] = field(default_factory=dict)
    machines: dict[str, Machine] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict, repr=False)
    """API keys: `admin`, and `member` of the first workspace."""
    passwords: Mapping[str, str] = field(
        default_factory=lambda: {
            name: secrets.token_urlsafe(24) for name in ("postgresql", "valkey")
        },
        repr=False,
    )
    sealing_key: str = field(default_factory=new_sealing_key, repr=False)
    _connection: psycopg.Connection[tuple[Any, ...]] | None = field(default=None, repr=False)
    _connecting: Lock = field(default_factory=Lock, repr=False)

    @property
    def failpoints(self) -> Path:
        """The directory in which failpoints are armed."""
        return self.directory / "failpoints"

    def log_file(self, name: str) -> Path:
        """Say what a part writes its log to."""
        return self.directory / "logs" / f"{name}.log"

    def database_url(self, *, proxied: bool = False) -> str:
        """Say where the database is."""
        port = self.database_proxy.port if proxied else self.ports["postgresql"]
        password = SecretStr(self.passwords["postgresql"])
        return postgresql.database_url(port, DATABASE, password=password).get_secret_value()

    def broker_url(self, *, proxied: bool = False) -> str:
        """Say where the broker is."""
        port = self.broker_proxy.port if proxied else self.ports["valkey"]
        return valkey.broker_url(port, SecretStr(self.passwords["valkey"])).get_secret_value()

    def environment(self, *, proxied_database: bool) -> dict[str, str]:
        """Give the environment of one of our processes."""
        ours = {f"CVMSTOP_{name}": value for name, value in SETTINGS.items()}
        return {
            **os.environ,
            **ours,
            "CVMSTOP_DATABASE_URL": self.database_url(proxied=proxied_database),
            "CVMSTOP_BROKER_URL": self.broker_url(proxied=True),
            "CVMSTOP_SEALING_KEYS": self.sealing_key,
            failpoints.VARIABLE: str(self.failpoints),
        }

    @property
    def secrets(self) -> dict[str, str]:
        """Everything that may be in no log, row or message, by what it is."""
        tokens = {f"token of {name}": each.token for name, each in self.machines.items()}
        keys = {f"API key of {name}": key for name, key in self.keys.items()}
        passwords = {f"password of {name}": each for name, each in self.passwords.items()}
        return {**tokens, **keys, **passwords, "sealing key": self.sealing_key}

    def settings(self) -> Settings:
        """Give the settings of our processes."""
        values = {
            name.removeprefix("CVMSTOP_").lower(): value
            for name, value in self.environment(proxied_database=False).items()
            if name.startswith("CVMSTOP_")
        }
        return Settings.model_validate(values)

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """Connect to the database, past the proxy."""
        return psycopg.connect(self.database_url(), autocommit=True, connect_timeout=5)

    def query(
        self, statement: LiteralString, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Run a statement that gives rows, past the proxy.

        On a connection that is kept: making one costs many times what such a statement does. One
        that a fault has broken is made anew.
        """
        with self._connecting:
            if self._connection is not None:
                with suppress(psycopg.OperationalError):
                    return self._connection.execute(statement, parameters).fetchall()
                self._connection.close()
                self._connection = None
            self._connection = self.connect()
            return self._connection.execute(statement, parameters).fetchall()

    def broker(self) -> Redis:
        """Connect to the broker, past the proxy."""
        return Redis.from_url(self.broker_url(), socket_timeout=5, socket_connect_timeout=5)

    @cached_property
    def asking(self) -> Celery:
        """A Celery app that asks and sends past the proxy."""
        past_the_proxy = {"broker_url": SecretStr(self.broker_url())}
        return make_celery(self.settings().model_copy(update=past_the_proxy))

    def answers_ping(self, name: str) -> bool:
        """Whether a worker or dispatcher answers."""
        return probes.answers_ping(self.asking, f"{name}@{socket.gethostname()}")

    def send_again(self, stop_task_ids: Sequence[str]) -> None:
        """Send messages for stops, as the API and the dispatcher do."""
        Broker(self.asking).send_stops(
            [
                DueStop(stop_task_id=UUID(each), request_id="again", cvm_id="any", host="any")
                for each in stop_task_ids
            ]
        )

    def mend_broker_disk(self) -> None:
        """Give the broker room, and have it write its log anew.

        Valkey 9.1 goes on behind the line that it could not finish, and does not start from such a
        log again.
        """
        self.broker_disk.empty()

        def begun() -> bool:
            with suppress(RedisError), self.broker() as client:
                return bool(client.bgrewriteaof())
            return False

        def written() -> bool:
            with self.broker() as client:
                info = client.info("persistence")
            return info["aof_last_write_status"] == "ok" and not info["aof_rewrite_in_progress"]

        eventually(begun)
        eventually(written)

    def start_postgresql(self) -> None:
        """Start PostgreSQL after a kill, as soon as the rest of its old processes has gone."""
        part = self.parts["postgresql"]

        def started() -> bool:
            if not part.runs:
                part.start()
            return part.spec.is_ready()

        eventually(started, timeout=60)

    def api(self, key: str = "admin", *, timeout: float = 15.0) -> httpx.Client:
        """Make a client of the API."""
        return httpx.Client(
            base_url=f"http://{ADDRESS}:{self.ports['api']}",
            headers={"X-API-Key": self.keys[key]},
            timeout=timeout,
            verify=False,  # noqa: S501 - it is HTTP; reading the system's certificates takes 20 ms
        )

    def arm(self, place: Failpoint, action: Action) -> None:
        """Arm a failpoint: the next process that comes by is struck."""
        ready = self.failpoints / f"{place}.arming"
        ready.write_text(action)
        ready.rename(self.failpoints / place)

    def struck(self, place: Failpoint) -> Part | None:
        """Give the part that an armed failpoint has struck, if any has been."""
        for file in self.failpoints.glob(f"{place}.struck-*"):
            pid = int(file.name.rpartition("-")[2])
            for part in self.parts.values():
                if part.process is not None and part.pid == pid:
                    part.wanted = False  # nobody is to start it again but the test
                    return part
        return None

    def make_well(self) -> None:
        """Mend everything, and wait until every part is ready and no stop is open."""
        for file in self.failpoints.iterdir():
            file.unlink()
        for proxy in (self.database_proxy, self.broker_proxy, self.host_proxy):
            proxy.well()
        for disk in (self.database_disk, self.broker_disk):
            disk.empty()
        for part in self.parts.values():
            if not part.runs:
                part.start()
            else:
                part.wanted = True
                part.thaw()
        for part in self.parts.values():
            part.wait_until_ready()
        for machine in self.machines.values():
            machine.behave(**WELL)
        eventually(lambda: not self.count_open(), timeout=2 * float(SETTINGS["STOP_DEADLINE"]))

    def count_open(self) -> int:
        """Count the stops that have not ended."""
        [(found,)] = self.query("SELECT count(*) FROM stop_tasks WHERE finished_at IS NULL")
        return int(found)

    def add_part(self, name: str, like: str) -> Part:
        """Add a worker or dispatcher like another one; it is not started."""
        spec = self.parts[like].spec
        self.parts[name] = Part(
            replace(
                spec,
                name=name,
                command=[part.replace(f"{like}@", f"{name}@") for part in spec.command],
                log_file=self.log_file(name),
                is_ready=partial(self.answers_ping, name),
            )
        )
        return self.parts[name]

    def close(self) -> None:
        """Close connections of our own."""
        self.asking.close()
        if self._connection is not None:
            self._connection.close()

    def remove_part(self, name: str) -> None:
        """End a process that was added, and forget it."""
        self.parts.pop(name).end()
