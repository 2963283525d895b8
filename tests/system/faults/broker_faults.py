"""What befalls the broker: dead, empty, hung, full, cut off, or repeating itself."""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shared.broker import STOPS_QUEUE
from tests.system.faults.meanwhile import meanwhile
from tests.system.faults.strikes import MOMENT


if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from threading import Event

    from tests.system.faults.cluster import Cluster


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


def broker_disk_full(cluster: Cluster, _: random.Random) -> None:
    """Leave the broker no room for its log."""
    cluster.broker_disk.fill()
    time.sleep(MOMENT)
    cluster.mend_broker_disk()


@contextmanager
def scrambled_messages(cluster: Cluster, chance: random.Random) -> Iterator[None]:
    """Deliver every message two to five times and in random order, while the block lasts."""

    def scramble(ending: Event) -> None:
        with cluster.connect() as connection, cluster.broker() as client:
            [(until,)] = connection.execute("SELECT clock_timestamp()")
            while not ending.wait(0.1):
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

    with meanwhile(scramble):
        yield
