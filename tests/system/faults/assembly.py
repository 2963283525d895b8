"""Puts the cluster together: servers, schema, hosts, rows, and cvmstop's own processes.

Commands and Celery settings are those that ship; `SETTINGS` makes leases and waits short.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from pydantic import SecretStr

from cli.stack import postgresql, probes, valkey
from cli.stack.child import ProcessSpec
from cli.stack.ports import ADDRESS, choose_ports
from shared.broker import HOUSEKEEPING_QUEUE, STOPS_QUEUE
from shared.database import transaction
from shared.engine import make_engine
from shared.models.hosts import HostCredentials
from shared.models.states import UserRole
from shared.schema import upgrade
from shared.sealing import Sealer
from shared.services import access
from shared.services.cvm_file import CvmFile
from shared.services.cvm_import import import_cvms
from shared.services.hosts import add_host
from tests.system.faults.certificates import Certificates
from tests.system.faults.cluster import DATABASE, OURS, Cluster
from tests.system.faults.machines import CAP, WORKSPACES, Machine, cvm_records, write_vms
from tests.system.faults.meanwhile import meanwhile
from tests.system.faults.part import Part
from tests.system.faults.small_disk import SmallDisk
from tests.system.faults.tcp_proxy import TcpProxy


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from threading import Event

HOSTS = ("host-1", "host-2", "host-3", "host-4", "host-proxied", "host-tls")
"""`host-proxied` is reached through a proxy, `host-tls` by HTTPS."""

CVMSTOP = [sys.executable, "-m", "cli"]

CELERY = [sys.executable, "-m", "celery", "-A", "workers.app"]


@contextmanager
def running_cluster(directory: Path, *, cvms: int) -> Iterator[Cluster]:
    """Start all of it, and end it after the block.

    Parameters
    ----------
    directory
        For data and logs.
    cvms
        How many there are.
    """
    for name in ("logs", "failpoints"):
        (directory / name).mkdir()
    names = ("postgresql", "valkey", "api", *HOSTS)
    ports = dict(zip(names, choose_ports(len(names)), strict=True))
    with ExitStack() as stack:
        cluster = Cluster(
            directory=directory,
            records=cvm_records(cvms, HOSTS),
            ports=ports,
            # 60 kB a stop: rows, their indexes and dead versions, and PostgreSQL's log.
            database_disk=stack.enter_context(
                SmallDisk(directory / "disk-1", megabytes=400 + cvms * 60 // 1000)
            ),
            broker_disk=stack.enter_context(SmallDisk(directory / "disk-2", megabytes=300)),
            database_proxy=stack.enter_context(TcpProxy(ports["postgresql"])),
            broker_proxy=stack.enter_context(TcpProxy(ports["valkey"])),
            host_proxy=stack.enter_context(TcpProxy(ports["host-proxied"])),
            certificates=Certificates(directory / "certificates"),
        )
        stack.callback(_end, cluster)
        _start_servers(cluster)
        _migrate(cluster)
        _start_machines(cluster)
        _provision(cluster)
        stack.callback(cluster.close)
        _start_ours(cluster)
        stack.enter_context(_minded(cluster))
        yield cluster


def _start_servers(cluster: Cluster) -> None:
    port, password = cluster.ports["postgresql"], SecretStr(cluster.passwords["postgresql"])
    data = cluster.database_disk.path / "postgresql"
    postgresql.initialise(data, password=password)
    _add(
        cluster,
        "postgresql",
        # The system does not crash here: what PostgreSQL wrote is not lost with it.
        postgresql.server_command(data, port, settings={"fsync": "off", "max_wal_size": "64MB"}),
        is_ready=partial(postgresql.is_ready, port, password=password),
        stop_signal=postgresql.STOP_SIGNAL,
    )
    port, password = cluster.ports["valkey"], SecretStr(cluster.passwords["valkey"])
    configuration = cluster.directory / "valkey.conf"
    data = cluster.broker_disk.path / "valkey"
    valkey.write_configuration(configuration, data, port=port, password=password)
    with configuration.open("a") as file:  # as shipped it keeps nothing; here its disk gets full
        file.write("appendonly yes\n")
    _add(
        cluster,
        "valkey",
        valkey.server_command(configuration),
        is_ready=partial(valkey.is_ready, port, password),
    )
    _start(cluster, "postgresql", "valkey")


def _migrate(cluster: Cluster) -> None:
    password = SecretStr(cluster.passwords["postgresql"])
    postgresql.ensure_database(cluster.ports["postgresql"], DATABASE, password=password)
    engine = make_engine(cluster.settings(), application="migrate")
    upgrade(engine)
    engine.dispose()


def _start_machines(cluster: Cluster) -> None:
    for name in HOSTS:
        vms = cluster.directory / f"{name}.vms.jsonl"
        write_vms(vms, cluster.records, name)
        journal = cluster.directory / f"{name}.journal.jsonl"
        port = cluster.ports[name]
        command_line = [
            *(*CVMSTOP, "simulate-host", f"--port={port}", f"--vms-file={vms}"),
            *(f"--log-file={journal}", "--latency=0.005", "--stop-seconds=0.1"),
        ]
        scheme = "http"
        if name == "host-tls":
            scheme = "https"
            command_line += [
                f"--tls-cert={cluster.certificates.server_cert}",
                f"--tls-key={cluster.certificates.server_key}",
            ]
        token = secrets.token_urlsafe(24)
        part = _add(
            cluster,
            name,
            command_line,
            is_ready=partial(probes.accepts_tcp, port),
            environment={**os.environ, "CVMSTOP_SIMULATED_TOKEN": token},
        )
        cluster.machines[name] = Machine(
            part=part, url=f"{scheme}://{ADDRESS}:{port}", journal=journal, token=token
        )
    _start(cluster, *HOSTS)


def _provision(cluster: Cluster) -> None:
    settings = cluster.settings()
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
            cluster.keys[user] = made.plain
        for name, machine in cluster.machines.items():
            address = machine.url
            if name == "host-proxied":
                address = f"http://{ADDRESS}:{cluster.host_proxy.port}"
            credentials = HostCredentials(
                token=SecretStr(machine.token),
                ca_pem=cluster.certificates.ca_pem if name == "host-tls" else None,
            )
            add_host(session, sealer, name=name, address=address, cap=CAP, credentials=credentials)
        import_cvms(session, CvmFile(records=list(cluster.records), problems=[]))
    engine.dispose()


def _start_ours(cluster: Cluster) -> None:
    straight = cluster.environment(proxied_database=False)
    proxied = cluster.environment(proxied_database=True)
    # -E is for Flower, which is not here: one worker has it, as shipped, one does without.
    _add_worker(cluster, "worker-1", STOPS_QUEUE, "-E", environment=straight)
    _add_worker(cluster, "worker-2", STOPS_QUEUE, environment=proxied)
    _add_worker(cluster, "dispatcher", HOUSEKEEPING_QUEUE, "-c", "2", environment=straight)
    port = cluster.ports["api"]
    is_ready = partial(probes.answers_http, port, "/health/ready")
    _add(
        cluster,
        "api",
        [*CVMSTOP, "api", f"--port={port}"],
        is_ready=is_ready,
        environment=proxied,
    )
    _add(cluster, "beat", [*CELERY, "beat"], is_ready=lambda: True, environment=straight)
    _start(cluster, *OURS)


def _add_worker(
    cluster: Cluster, name: str, queue: str, *options: str, environment: Mapping[str, str]
) -> None:
    command_line = [
        *(*CELERY, "worker", "-Q", queue, "-n", f"{name}@%h"),
        *("--without-gossip", "--without-mingle", *options),
    ]
    is_ready = partial(cluster.answers_ping, name)
    _add(cluster, name, command_line, is_ready=is_ready, environment=environment)


def _add(
    cluster: Cluster,
    name: str,
    command_line: list[str],
    *,
    is_ready: Callable[[], bool],
    environment: Mapping[str, str] = os.environ,
    stop_signal: signal.Signals = signal.SIGTERM,
) -> Part:
    cluster.parts[name] = Part(
        ProcessSpec(
            name=name,
            command=command_line,
            environment=environment,
            log_file=cluster.log_file(name),
            is_ready=is_ready,
            stop_signal=stop_signal,
        )
    )
    return cluster.parts[name]


def _start(cluster: Cluster, *names: str) -> None:
    for name in names:
        cluster.parts[name].start()
    for name in names:
        cluster.parts[name].wait_until_ready()


@contextmanager
def _minded(cluster: Cluster) -> Iterator[None]:
    """Do what a supervisor does, while the block lasts."""

    def mind(ending: Event) -> None:
        while not ending.wait(0.1):
            for part in list(cluster.parts.values()):
                part.mind()

    with meanwhile(mind):
        yield


def _end(cluster: Cluster) -> None:
    """End everything, the servers last."""
    for name in sorted(cluster.parts, key=lambda each: each in {"postgresql", "valkey"}):
        cluster.parts[name].end()
