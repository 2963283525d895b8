"""Every fault: strikes, lasts a moment, and is mended. Each may be brought on by any test.

A fault returns once it is mended; parts that it killed have been started again by then, and are on
their way. Names are those of the tables in `docs/faults.md`.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg

from shared.broker import STOPS_QUEUE
from shared.failpoints import Action, Failpoint
from tests.support.waiting import eventually
from tests.system.faults.cluster import WORKERS
from tests.system.faults.machines import WELL


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.faults.cluster import Cluster
    from tests.system.faults.part import Part

    Fault = Callable[[Cluster, random.Random], None]

MOMENT = 2.0
"""Seconds that a fault lasts which has no natural end: longer than every network time-out here."""


def struck_by(cluster: Cluster, place: Failpoint) -> Part:
    """Wait until somebody has come by an armed failpoint; gives who it was."""

    def struck() -> Part | None:
        part = cluster.struck(place)
        return part if part is not None and (not part.runs or part.is_frozen()) else None

    found = eventually(struck, timeout=60)
    assert found is not None
    for file in cluster.failpoints.glob(f"{place}.struck-*"):
        file.unlink()
    return found


def killed_at(place: Failpoint) -> Fault:
    """Make the fault in which whoever comes by a place next is killed there."""

    def fault(cluster: Cluster, _: random.Random) -> None:
        cluster.arm(place, Action.KILL)
        struck_by(cluster, place).start()

    return fault


def killed(*names: str) -> Fault:
    """Make the fault in which one of some parts is killed, whatever it is doing."""

    def fault(cluster: Cluster, chance: random.Random) -> None:
        part = cluster.parts[chance.choice(names)]
        part.kill()
        part.start()

    return fault


def frozen(*names: str, seconds: float = MOMENT) -> Fault:
    """Make the fault in which one of some parts stands still for a while."""

    def fault(cluster: Cluster, chance: random.Random) -> None:
        part = cluster.parts[chance.choice(names)]
        with standing_still(part):
            time.sleep(seconds)

    return fault


@contextmanager
def standing_still(part: Part) -> Iterator[None]:
    """Freeze a part for the block."""
    part.freeze()
    try:
        yield
    finally:
        part.thaw()


def worker_frozen_past_its_lease(cluster: Cluster, chance: random.Random) -> None:
    """Freeze a worker that has just claimed a stop until its leases have run out."""
    place = chance.choice([Failpoint.WORKER_CLAIMED, Failpoint.WORKER_TURN_TAKEN])
    cluster.arm(place, Action.FREEZE)
    part = struck_by(cluster, place)
    time.sleep(cluster.settings().lease + 1)
    part.thaw()
    part.wanted = True


def broker_restarted_empty(cluster: Cluster, _: random.Random) -> None:
    """Kill the broker, and start it without its data."""
    cluster.parts["valkey"].wait_until_ready()
    part = cluster.parts["valkey"]
    part.kill()
    shutil.rmtree(cluster.broker_disk.path / "valkey" / "appendonlydir")
    time.sleep(MOMENT)
    part.start()


def broker_flushed(cluster: Cluster, _: random.Random) -> None:
    """Forget every message."""
    cluster.parts["valkey"].wait_until_ready()
    with cluster.broker() as client:
        client.flushall()


def broker_restarted_with_old_data(cluster: Cluster, _: random.Random) -> None:
    """Kill the broker, and start it with what it had a while ago: messages return from the dead.

    What returns is made up of stops that ended long since and of some that are open.
    """
    cluster.parts["valkey"].wait_until_ready()
    with cluster.connect() as connection:
        ids = [row[0] for row in connection.execute("SELECT id::text FROM stop_tasks LIMIT 300")]
    part = cluster.parts["valkey"]
    part.kill()
    part.start()
    part.wait_until_ready()
    cluster.send_again(ids)


def broker_connections_cut(cluster: Cluster, _: random.Random) -> None:
    """Have the broker close every connection."""
    cluster.parts["valkey"].wait_until_ready()
    with cluster.broker() as client:
        client.client_kill_filter(_type="normal", skipme=True)
        client.client_kill_filter(_type="pubsub", skipme=True)


def broker_full(cluster: Cluster, _: random.Random) -> None:
    """Give the broker no room for anything new, and cut who is connected."""
    cluster.parts["valkey"].wait_until_ready()
    with cluster.broker() as client:
        client.config_set("maxmemory", 1)
        client.client_kill_filter(_type="normal", skipme=True)
        time.sleep(MOMENT)
        client.config_set("maxmemory", 0)


def broker_swallowed(cluster: Cluster, _: random.Random) -> None:
    """Have the network to the broker swallow everything."""
    cluster.broker_proxy.swallow()
    time.sleep(MOMENT)
    cluster.broker_proxy.well()


def broker_refused(cluster: Cluster, _: random.Random) -> None:
    """Break every connection to the broker, and refuse new ones."""
    cluster.broker_proxy.refuse()
    time.sleep(MOMENT)
    cluster.broker_proxy.well()


def database_killed(cluster: Cluster, _: random.Random) -> None:
    """Kill PostgreSQL's first process; the others notice and end."""
    cluster.parts["postgresql"].kill()
    cluster.start_postgresql()


def database_out_of_connections(cluster: Cluster, _: random.Random) -> None:
    """Take every connection that PostgreSQL gives out, and break those that there were."""
    with ExitStack() as stack, cluster.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        end = time.monotonic() + MOMENT
        while time.monotonic() < end:
            with suppress(psycopg.OperationalError):
                stack.enter_context(cluster.connect())


def database_cut(cluster: Cluster, _: random.Random) -> None:
    """Break every connection to the database that goes through the proxy, in mid-answer."""
    cluster.database_proxy.cut_answers(200)
    time.sleep(MOMENT / 2)
    cluster.database_proxy.well()


def database_swallowed(cluster: Cluster, _: random.Random) -> None:
    """Have the network to the database swallow everything, for those behind the proxy."""
    cluster.database_proxy.swallow()
    time.sleep(MOMENT)
    cluster.database_proxy.well()


def host_killed(cluster: Cluster, chance: random.Random) -> None:
    """Kill what manages a host: refused until it is back. Its VMs run again then."""
    part = cluster.machines[chance.choice(["host-1", "host-2"])].part
    part.kill()
    time.sleep(MOMENT)
    part.start()
    part.wait_until_ready()


def host_behaves(seconds: float = MOMENT, **behaviour: Any) -> Fault:
    """Make the fault in which a host behaves badly for a while."""

    def fault(cluster: Cluster, chance: random.Random) -> None:
        machine = cluster.machines[chance.choice(["host-1", "host-2", "host-3"])]
        machine.behave(**behaviour)
        time.sleep(seconds)
        machine.behave(**WELL)

    return fault


def host_swallowed(cluster: Cluster, _: random.Random) -> None:
    """Have the network to a host swallow everything."""
    cluster.host_proxy.swallow()
    time.sleep(MOMENT)
    cluster.host_proxy.well()


def host_cut(cluster: Cluster, _: random.Random) -> None:
    """Break connections to a host in the middle of its answers."""
    cluster.host_proxy.cut_answers(100)
    time.sleep(MOMENT)
    cluster.host_proxy.well()


def host_certificate_expired(cluster: Cluster, _: random.Random) -> None:
    """Have a host show a certificate that has expired."""
    part = cluster.machines["host-tls"].part
    for change in (cluster.certificates.expire, cluster.certificates.renew):
        part.kill()
        change()
        part.start()
        part.wait_until_ready()
        if change == cluster.certificates.expire:
            time.sleep(MOMENT)


@contextmanager
def scrambled_messages(cluster: Cluster, chance: random.Random) -> Iterator[None]:
    """Deliver every message two to five times and in random order, while the block lasts."""
    ending = threading.Event()

    def scramble() -> None:
        with cluster.connect() as connection, cluster.broker() as client:
            [(until,)] = connection.execute("SELECT clock_timestamp()")
            while not ending.wait(0.02):
                sent = connection.execute(
                    "SELECT id::text, sent_at FROM stop_tasks WHERE sent_at > %s", [until]
                ).fetchall()
                until = max([until, *(row[1] for row in sent)])
                again = [row[0] for row in sent for _ in range(chance.randint(1, 4))]
                chance.shuffle(again)
                cluster.send_again(again)
                waiting = client.lpop(STOPS_QUEUE, 1_000) or []
                chance.shuffle(waiting)
                if waiting:
                    client.lpush(STOPS_QUEUE, *waiting)

    thread = threading.Thread(target=scramble, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def database_disk_full(cluster: Cluster, _: random.Random) -> None:
    """Leave PostgreSQL no room; it may well end, and is started again until there is some."""
    cluster.database_disk.fill()
    time.sleep(MOMENT)
    cluster.database_disk.empty()


def broker_disk_full(cluster: Cluster, _: random.Random) -> None:
    """Leave the broker no room for its log."""
    cluster.broker_disk.fill()
    time.sleep(MOMENT)
    cluster.mend_broker_disk()


API_FAULTS: dict[str, Fault] = {
    "API killed after the commit": killed_at(Failpoint.API_COMMITTED),
    "API killed": killed("api"),
    "API frozen": frozen("api"),
}

WORKER_FAULTS: dict[str, Fault] = {
    "worker killed before the claim": killed_at(Failpoint.WORKER_RECEIVED),
    "worker killed after the claim": killed_at(Failpoint.WORKER_CLAIMED),
    "worker killed after the force stop": killed_at(Failpoint.WORKER_FORCE_STOPPED),
    "worker killed before settling": killed_at(Failpoint.WORKER_TURN_TAKEN),
    "worker killed after settling": killed_at(Failpoint.WORKER_SETTLED),
    "worker killed": killed(*WORKERS),
    "worker frozen past its lease": worker_frozen_past_its_lease,
}

BROKER_FAULTS: dict[str, Fault] = {
    "broker restarted empty": broker_restarted_empty,
    "broker flushed": broker_flushed,
    "broker restarted with old data": broker_restarted_with_old_data,
    "broker connections cut": broker_connections_cut,
    "broker full": broker_full,
    "broker frozen": frozen("valkey"),
    "broker swallowed": broker_swallowed,
    "broker refused": broker_refused,
}

DATABASE_FAULTS: dict[str, Fault] = {
    "database killed": database_killed,
    "database frozen": frozen("postgresql", seconds=4),
    "database out of connections": database_out_of_connections,
    "database cut": database_cut,
    "database swallowed": database_swallowed,
}

DISPATCHER_FAULTS: dict[str, Fault] = {
    "dispatcher killed before sending": killed_at(Failpoint.DISPATCHER_TAKEN),
    "dispatcher killed": killed("dispatcher"),
    "dispatcher frozen": frozen("dispatcher", seconds=4),
    "beat killed": killed("beat"),
}

HOST_FAULTS: dict[str, Fault] = {
    "host refused": host_killed,
    "host a black hole": host_behaves(dead=True),
    "host hangs after a force stop": host_behaves(
        faults=[{"kind": "hang", "methods": ["StopVm"], "carried_out": True}]
    ),
    "host cut in mid-answer": host_behaves(faults=[{"kind": "cut"}]),
    "host answers 500": host_behaves(faults=[{"kind": "http", "status": 500}]),
    "host answers garbage": host_behaves(faults=[{"kind": "garbage"}]),
    "host drips": host_behaves(faults=[{"kind": "drip", "interval": 0.5}]),
    "host's certificate expired": host_certificate_expired,
    "host's VMs stopping for ever": host_behaves(never_stops=True),
    "host's VMs come back": host_behaves(undone_stops=1, undone_after=0.02),
    "host swallowed": host_swallowed,
    "host cut by the network": host_cut,
}

DISK_FAULTS: dict[str, Fault] = {
    "database's disk full": database_disk_full,
    "broker's disk full": broker_disk_full,
}
"""Only where this machine lets us mount a file system."""

ALL_FAULTS = {
    **API_FAULTS,
    **WORKER_FAULTS,
    **BROKER_FAULTS,
    **DATABASE_FAULTS,
    **DISPATCHER_FAULTS,
    **HOST_FAULTS,
}

STRIKES_AT_A_PLACE = {
    *(name for name, fault in WORKER_FAULTS.items() if fault is not WORKER_FAULTS["worker killed"]),
    "API killed after the commit",
    "dispatcher killed before sending",
}
"""By a failpoint: somebody must come by afterwards."""

LOSES_ONLY_A_MESSAGE = {"worker killed before the claim"}
"""Of the faults of workers: nothing had been claimed by the message's turn."""

OF_THE_BROKER = {*BROKER_FAULTS, "broker's disk full"}

OF_THE_DATABASE = {*DATABASE_FAULTS, "database's disk full"}
