"""Every part of cvmstop as a process of its own, with proxies in between.

API, two workers, dispatcher, beat, PostgreSQL, Valkey, and simulated VM hosts. Commands and Celery
settings are those that ship; the settings in `SETTINGS` make leases and waits short.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import threading
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import psycopg
from alembic import command
from pydantic import SecretStr
from redis import Redis
from redis.exceptions import RedisError

from cli.stack import postgresql, probes, valkey
from cli.stack.child import ProcessSpec
from cli.stack.ports import ADDRESS, choose_ports
from shared import failpoints
from shared.broker import HOUSEKEEPING_QUEUE, STOPS_QUEUE, Broker, make_celery
from shared.database import alembic_config, make_engine, transaction
from shared.models.hosts import HostCredentials
from shared.models.states import UserRole
from shared.models.turns import DueStop
from shared.sealing import Sealer, new_sealing_key
from shared.services import access
from shared.services.cvm_file import CvmFile
from shared.services.cvm_import import import_cvms
from shared.services.hosts import add_host
from shared.settings import Settings
from tests.support.waiting import eventually
from tests.system.faults.certificates import Certificates
from tests.system.faults.machines import CAP, WELL, WORKSPACES, Machine, cvm_records, write_vms
from tests.system.faults.part import Part
from tests.system.faults.small_disk import SmallDisk
from tests.system.faults.tcp_proxy import TcpProxy


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from shared.failpoints import Action, Failpoint

SETTINGS = {
    "LEASE": "6",
    "TURN_LIMIT": "5",
    "HOST_CONNECT_TIMEOUT": "1",
    "HOST_QUERY_TIMEOUT": "1.5",
    "HOST_STOP_TIMEOUT": "2.5",
    "LOOK_SECONDS": "1",
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

HOSTS = ("host-1", "host-2", "host-3", "host-4", "host-proxied", "host-tls")
"""`host-proxied` is reached through a proxy, `host-tls` by HTTPS."""

WORKERS = ("worker-1", "worker-2")

OURS = ("api", *WORKERS, "dispatcher", "beat")
"""Parts of cvmstop itself."""

DATABASE = "cvmstop"


class Cluster:
    """All of it; a context manager that ends it.

    `worker-2` and the API reach the database through a proxy, and everybody the broker.

    Parameters
    ----------
    directory
        For data and logs.
    cvms
        How many there are.
    """

    def __init__(self, directory: Path, *, cvms: int) -> None:
        self.directory = directory
        self.records = cvm_records(cvms, HOSTS)
        self.parts: dict[str, Part] = {}
        self.machines: dict[str, Machine] = {}
        self.keys: dict[str, str] = {}
        """API keys: `admin`, and `member` of the first workspace."""
        self.passwords = {name: secrets.token_urlsafe(24) for name in ("postgresql", "valkey")}
        self.sealing_key = new_sealing_key()
        names = ("postgresql", "valkey", "api", *HOSTS)
        self._ports = dict(zip(names, choose_ports(len(names)), strict=True))
        self.failpoints = directory / "failpoints"
        # 60 kB a stop: rows, their indexes and dead versions, and PostgreSQL's log.
        self.database_disk = SmallDisk(directory / "disk-1", megabytes=400 + cvms * 60 // 1000)
        self.broker_disk = SmallDisk(directory / "disk-2", megabytes=300)
        self._stack = ExitStack()
        self._ending = threading.Event()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for name in ("logs", "failpoints"):
                (self.directory / name).mkdir()
            stack.enter_context(self.database_disk)
            stack.enter_context(self.broker_disk)
            stack.callback(self._end)
            self.database_proxy = stack.enter_context(TcpProxy(self._ports["postgresql"]))
            self.broker_proxy = stack.enter_context(TcpProxy(self._ports["valkey"]))
            self.host_proxy = stack.enter_context(TcpProxy(self._ports["host-proxied"]))
            self._start()
            minding = threading.Thread(target=self._mind, daemon=True)
            minding.start()
            stack.callback(minding.join)
            stack.callback(self._ending.set)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def database_url(self, *, proxied: bool = False) -> str:
        """Say where the database is."""
        port = self.database_proxy.port if proxied else self._ports["postgresql"]
        password = SecretStr(self.passwords["postgresql"])
        return postgresql.database_url(port, DATABASE, password=password).get_secret_value()

    def broker_url(self, *, proxied: bool = False) -> str:
        """Say where the broker is."""
        port = self.broker_proxy.port if proxied else self._ports["valkey"]
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

    def broker(self) -> Redis:
        """Connect to the broker, past the proxy."""
        return Redis.from_url(self.broker_url(), socket_timeout=5, socket_connect_timeout=5)

    def send_again(self, stop_task_ids: Sequence[str]) -> None:
        """Send messages for stops, as the API and the dispatcher do."""
        Broker(self._asking).send_stops(
            [DueStop(stop_task_id=UUID(each), request_id="again") for each in stop_task_ids]
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
        url = f"http://{ADDRESS}:{self._ports['api']}"
        return httpx.Client(base_url=url, headers={"X-API-Key": self.keys[key]}, timeout=timeout)

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
        """Mend everything, and wait until every part is ready."""
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
        eventually(self._none_open, timeout=2 * float(SETTINGS["STOP_DEADLINE"]))

    def _none_open(self) -> bool:
        with self.connect() as connection:
            [(found,)] = connection.execute(
                "SELECT count(*) FROM stop_tasks WHERE finished_at IS NULL"
            )
        return not found

    def add_part(self, name: str, like: str, environment: Mapping[str, str]) -> Part:
        """Add a process like another one, with more in its environment; it is not started."""
        spec = self.parts[like].spec
        command_line = [part.replace(f"{like}@", f"{name}@") for part in spec.command]
        self.parts[name] = Part(
            replace(
                spec,
                name=name,
                command=command_line,
                environment={**spec.environment, **environment},
                log_file=self._log_file(name),
                is_ready=partial(probes.answers_ping, self._asking, f"{name}@{_HOSTNAME}"),
            )
        )
        return self.parts[name]

    def remove_part(self, name: str) -> None:
        """End a process that was added, and forget it."""
        self.parts.pop(name).end()

    def _start(self) -> None:
        self._start_servers()
        self._migrate()
        self._start_machines()
        self._provision()
        app = make_celery(
            self.settings().model_copy(update={"broker_url": SecretStr(self.broker_url())})
        )
        self._asking = app
        self._stack.callback(app.close)
        for name in WORKERS:
            # -E is for Flower, which is not here: one worker has it, as shipped, one does without.
            events = () if name == "worker-2" else ("-E",)
            self._add_worker(name, STOPS_QUEUE, *events, proxied_database=name == "worker-2")
        self._add_worker("dispatcher", HOUSEKEEPING_QUEUE, "-c", "2", proxied_database=False)
        port = self._ports["api"]
        self._add(
            "api",
            [*_CVMSTOP, "api", f"--port={port}"],
            is_ready=partial(probes.answers_http, port, "/health/ready"),
            environment=self.environment(proxied_database=True),
        )
        self._add(
            "beat",
            [*_CELERY, "beat"],
            is_ready=lambda: True,
            environment=self.environment(proxied_database=False),
        )
        for name in OURS:
            self.parts[name].start()
        for name in OURS:
            self.parts[name].wait_until_ready()

    def _start_servers(self) -> None:
        password = SecretStr(self.passwords["postgresql"])
        postgresql.initialise(self.database_disk.path / "postgresql", password=password)
        port = self._ports["postgresql"]
        self._add(
            "postgresql",
            # The system does not crash here: what PostgreSQL wrote is not lost with it.
            postgresql.server_command(
                self.database_disk.path / "postgresql",
                port,
                settings={"fsync": "off", "max_wal_size": "64MB"},
            ),
            is_ready=partial(postgresql.is_ready, port, password=password),
            stop_signal=postgresql.STOP_SIGNAL,
        )
        port = self._ports["valkey"]
        configuration = self.directory / "valkey.conf"
        password = SecretStr(self.passwords["valkey"])
        valkey.write_configuration(
            configuration, self.broker_disk.path / "valkey", port=port, password=password
        )
        with configuration.open(
            "a"
        ) as file:  # as shipped it keeps nothing; here its disk gets full
            file.write("appendonly yes\n")
        self._add(
            "valkey",
            valkey.server_command(configuration),
            is_ready=partial(valkey.is_ready, port, password),
        )
        for part in self.parts.values():
            part.start()
        for part in self.parts.values():
            part.wait_until_ready()

    def _start_machines(self) -> None:
        self.certificates = Certificates(self.directory / "certificates")
        for name in HOSTS:
            vms = self.directory / f"{name}.vms.jsonl"
            write_vms(vms, self.records, name)
            journal = self.directory / f"{name}.journal.jsonl"
            port = self._ports[name]
            command_line = [
                *(*_CVMSTOP, "simulate-host", f"--port={port}", f"--vms-file={vms}"),
                *(f"--log-file={journal}", "--latency=0.005", "--stop-seconds=0.1"),
            ]
            if name == "host-tls":
                command_line += [
                    f"--tls-cert={self.certificates.server_cert}",
                    f"--tls-key={self.certificates.server_key}",
                ]
            token = secrets.token_urlsafe(24)
            part = self._add(
                name,
                command_line,
                is_ready=partial(probes.accepts_tcp, port),
                environment={**os.environ, "CVMSTOP_SIMULATED_TOKEN": token},
            )
            scheme = "https" if name == "host-tls" else "http"
            url = f"{scheme}://{ADDRESS}:{port}"
            self.machines[name] = Machine(part=part, url=url, journal=journal, token=token)
            part.start()
        for machine in self.machines.values():
            machine.part.wait_until_ready()

    def _migrate(self) -> None:
        password = SecretStr(self.passwords["postgresql"])
        postgresql.ensure_database(self._ports["postgresql"], DATABASE, password=password)
        engine = make_engine(self.settings(), application="migrate")
        config = alembic_config()
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        engine.dispose()

    def _provision(self) -> None:
        settings = self.settings()
        sealer = Sealer(settings.sealing_keys)
        engine = make_engine(settings, application="provision")
        with transaction(engine) as session:
            for workspace in WORKSPACES:
                access.create_workspace(session, workspace)
            for user, role in (("admin", UserRole.ADMIN), ("member", UserRole.USER)):
                access.create_user(session, user, role=role, workspaces=[WORKSPACES[0]])
                made = access.create_key(
                    session, user=user, workspace=WORKSPACES[0], name="faults", valid_for=None
                )
                self.keys[user] = made.plain
            for name, machine in self.machines.items():
                address = machine.url
                if name == "host-proxied":
                    address = f"http://{ADDRESS}:{self.host_proxy.port}"
                credentials = HostCredentials(
                    token=SecretStr(machine.token),
                    ca_pem=self.certificates.ca_pem if name == "host-tls" else None,
                )
                add_host(
                    session, sealer, name=name, address=address, cap=CAP, credentials=credentials
                )
            import_cvms(session, CvmFile(records=self.records, problems=[]))
        engine.dispose()

    def _add_worker(self, name: str, queue: str, *options: str, proxied_database: bool) -> None:
        self._add(
            name,
            [
                *(*_CELERY, "worker", "-Q", queue, "-n", f"{name}@%h"),
                *("--without-gossip", "--without-mingle", *options),
            ],
            is_ready=lambda: probes.answers_ping(self._asking, f"{name}@{_HOSTNAME}"),
            environment=self.environment(proxied_database=proxied_database),
        )

    def _add(
        self,
        name: str,
        command_line: list[str],
        *,
        is_ready: Any,
        environment: Mapping[str, str] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> Part:
        self.parts[name] = Part(
            ProcessSpec(
                name=name,
                command=command_line,
                environment=os.environ if environment is None else environment,
                log_file=self._log_file(name),
                is_ready=is_ready,
                stop_signal=stop_signal,
            )
        )
        return self.parts[name]

    def _log_file(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"

    def _mind(self) -> None:
        """Do what a supervisor does, in a thread that lives as long as what it starts."""
        while not self._ending.wait(0.1):
            for part in list(self.parts.values()):
                part.mind()

    def _end(self) -> None:
        for name in sorted(self.parts, key=lambda each: each in {"postgresql", "valkey"}):
            self.parts[name].end()


_CVMSTOP = [sys.executable, "-m", "cli"]
_CELERY = [sys.executable, "-m", "celery", "-A", "workers.app"]
_HOSTNAME = socket.gethostname()
