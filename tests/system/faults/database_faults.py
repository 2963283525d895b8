"""What befalls PostgreSQL: dead, out of connections, cut off, or without room."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import psycopg

from tests.system.faults.strikes import MOMENT


if TYPE_CHECKING:
    import random

    from tests.system.faults.cluster import Cluster


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


def database_disk_full(cluster: Cluster, _: random.Random) -> None:
    """Leave PostgreSQL no room; it may well end, and is started again until there is some."""
    cluster.database_disk.fill()
    time.sleep(MOMENT)
    cluster.database_disk.empty()
