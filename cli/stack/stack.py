"""A whole stack: everything that `cvmstop up` and `cvmstop demo` start, in the right order."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import SecretStr

from cli.stack import leftovers, postgresql, processes, valkey
from cli.stack.ports import ADDRESS, settle_ports
from cli.stack.simulation import ADMIN, ensure_key, provision, write_vms
from cli.stack.stack_file import StackFacts, write_environment_file, write_stack_file
from cli.stack.supervisor import Supervisor


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from celery import Celery

    from cli.stack.data_dir import DataDir
    from cli.stack.simulation import Inventory


class Stack:
    """One stack on this machine.

    Parameters
    ----------
    data_dir
        Prepared, and locked for as long as the stack runs.
    inventory
        What it works on.
    api_port
        None for the one that it had before, or a free one.
    report
        Takes one line for a person, for each event.
    """

    def __init__(
        self,
        data_dir: DataDir,
        inventory: Inventory,
        *,
        api_port: int | None,
        report: Callable[[str], None],
    ) -> None:
        self.data_dir = data_dir
        self.inventory = inventory
        self._report = report
        self._secrets = data_dir.load_secrets()
        self._given_ports = {} if api_port is None else {"api": api_port}
        self._ports: dict[str, int] = {}
        self.supervisor = Supervisor(report=report, on_change=self._write_down_processes)
        self._facts: StackFacts | None = None

    @property
    def facts(self) -> StackFacts:
        """How the stack is reached; there are none before it runs."""
        if self._facts is None:
            msg = "the stack does not run yet"
            raise RuntimeError(msg)
        return self._facts

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start everything and wait until it is ready; end everything with the block.

        Raises
        ------
        StackError
            Something cannot be started.
        ToldToStopError
            Somebody wants us to end.
        """
        self.data_dir.stack_file.unlink(missing_ok=True)
        for name in leftovers.end_recorded(self.data_dir.processes_file):
            self._report(f"{name} of a stack that was killed is ended")
        self._settle_ports()
        with self.supervisor.minding_signals():
            try:
                self._start()
                yield
            finally:
                self._report("ending everything ...")
                self.supervisor.stop()
                for file in (self.data_dir.stack_file, self.data_dir.environment_file):
                    file.unlink(missing_ok=True)
                self.data_dir.processes_file.unlink(missing_ok=True)

    def _settle_ports(self) -> None:
        """Take the ports of the last time, as far as they are free."""
        names = ["postgresql", "valkey", "flower", "api"]
        names += [host.name for host in self.inventory.hosts]
        kept = self._secrets.ports
        self._ports = settle_ports(names, given=self._given_ports, kept=kept)
        for name, port in self._ports.items():
            if name in kept and name not in self._given_ports and port != kept[name]:
                self._report(f"port {kept[name]} is taken: {name} gets port {port}")
        kept.update(self._ports)
        self.data_dir.save_secrets(self._secrets)

    def _start(self) -> None:
        """Start in an order that keeps both cores busy: nothing waits that does not have to."""
        data_dir, secrets, supervisor = self.data_dir, self._secrets, self.supervisor
        environment = self._adopt_environment()
        valkey.write_configuration(
            data_dir.valkey_configuration,
            data_dir.valkey,
            port=self._ports["valkey"],
            password=SecretStr(secrets.valkey),
        )
        write_vms(data_dir, self.inventory)
        password = SecretStr(secrets.postgresql)
        supervisor.start([processes.valkey_process(data_dir, self._ports["valkey"], secrets)])
        postgresql.initialise(data_dir.postgresql, password=password)
        supervisor.start(
            [processes.postgresql_process(data_dir, self._ports["postgresql"], secrets)]
        )
        supervisor.wait_until_ready(["valkey"])
        supervisor.start(
            [
                processes.flower_process(data_dir, self._ports["flower"], secrets),
                processes.beat_process(data_dir),
                *(
                    processes.simulated_host_process(data_dir, host, self._ports[host.name])
                    for host in self.inventory.hosts
                ),
            ]
        )
        supervisor.wait_until_ready(["postgresql"])
        self._migrate()
        app = _celery_app()
        supervisor.start(
            [
                processes.worker_process(data_dir, app),
                processes.dispatcher_process(data_dir, app),
                processes.api_process(data_dir, self._ports["api"]),
            ]
        )
        keys = self._provision()
        supervisor.wait_until_ready()
        app.close()
        self._write_down(keys, environment)

    def _adopt_environment(self) -> dict[str, str]:
        """Make this process, and all that it starts, one of the stack's; gives the settings.

        Other settings of the caller stay: they are how a stack is tuned.
        """
        password = SecretStr(self._secrets.postgresql)
        url = postgresql.database_url(
            self._ports["postgresql"], processes.DATABASE, password=password
        ).get_secret_value()
        broker = valkey.broker_url(self._ports["valkey"], SecretStr(self._secrets.valkey))
        settings = {
            "CVMSTOP_DATABASE_URL": url,
            "CVMSTOP_BROKER_URL": broker.get_secret_value(),
            "CVMSTOP_SEALING_KEYS": self._secrets.sealing_keys,
            "CVMSTOP_WEBHOOK_KEYS": self._secrets.webhook_keys,
            "CVMSTOP_FLOWER_URL": self._url("flower"),
        }
        kept = processes.clean_environment(os.environ)
        os.environ.clear()
        os.environ.update({**kept, **settings})
        return settings

    def _migrate(self) -> None:
        from cli.migrate import migrate

        password = SecretStr(self._secrets.postgresql)
        postgresql.ensure_database(self._ports["postgresql"], processes.DATABASE, password=password)
        migrate(check=False)

    def _provision(self) -> tuple[str, str]:
        """Write the inventory and the keys into the database; gives the admin's and the user's."""
        from cli import edge
        from shared.sealing import Sealer
        from shared.settings import Settings

        settings = Settings.load()
        home = self.inventory.workspaces[0]
        kept = self._secrets.api_keys
        with edge.session(settings) as session:
            provision(
                session,
                Sealer(settings.sealing_keys),
                self.inventory,
                {host.name: self._url(host.name) for host in self.inventory.hosts},
            )
            admin = ensure_key(session, kept, user=ADMIN, workspace=home)
            user = ensure_key(session, kept, user=self.inventory.user, workspace=home)
        kept.update([admin, user])
        self.data_dir.save_secrets(self._secrets)
        return admin[1], user[1]

    def _write_down(self, keys: tuple[str, str], environment: Mapping[str, str]) -> None:
        """Tell the world, now that everything is ready."""
        self._facts = StackFacts(
            api_url=self._url("api"),
            flower_url=self._url("flower"),
            flower_user=processes.FLOWER_USER,
            flower_password=self._secrets.flower,
            database_url=environment["CVMSTOP_DATABASE_URL"],
            broker_url=environment["CVMSTOP_BROKER_URL"],
            admin_key=keys[0],
            user_key=keys[1],
            data_dir=str(self.data_dir.root),
            hosts=tuple(
                {
                    "name": host.name,
                    "url": self._url(host.name),
                    "log_file": str(host.journal(self.data_dir)),
                }
                for host in self.inventory.hosts
            ),
        )
        client = {"CVMSTOP_API_URL": self._facts.api_url, "CVMSTOP_API_KEY": keys[0]}
        write_environment_file(self.data_dir, {**environment, **client})
        self._write_down_processes()

    def _url(self, process: str) -> str:
        return f"http://{ADDRESS}:{self._ports[process]}"

    def _write_down_processes(self) -> None:
        """Write down which processes run: for who comes after us at once, for others when ready."""
        pids = self.supervisor.pids
        signals = {name: spec.stop_signal for name, spec in self.supervisor.specs.items()}
        found = (leftovers.describe(name, pid, signals[name]) for name, pid in pids.items())
        leftovers.record(self.data_dir.processes_file, [each for each in found if each])
        if self._facts is not None:
            write_stack_file(self.data_dir, self._facts, pids)


def _celery_app() -> Celery:
    """Make what asks workers whether they are ready."""
    from shared.broker import make_celery
    from shared.settings import BrokerSettings

    return make_celery(BrokerSettings.load())
