"""Every fault by its name: strikes, lasts a moment, and is mended. Any test may bring one on.

A fault returns once it is mended; parts that it killed have been started again by then, and are on
their way. Names are those of the tables in `docs/faults.md`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.failpoints import Failpoint
from tests.system.faults import broker_faults, database_faults, host_faults
from tests.system.faults.cluster import WORKERS
from tests.system.faults.host_faults import host_behaves
from tests.system.faults.strikes import (
    frozen,
    killed,
    killed_at,
    worker_frozen_past_its_lease,
)


if TYPE_CHECKING:
    from tests.system.faults.strikes import Fault

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
    "broker restarted empty": broker_faults.broker_restarted_empty,
    "broker flushed": broker_faults.broker_flushed,
    "broker restarted with old data": broker_faults.broker_restarted_with_old_data,
    "broker connections cut": broker_faults.broker_connections_cut,
    "broker full": broker_faults.broker_full,
    "broker frozen": frozen("valkey"),
    "broker swallowed": broker_faults.broker_swallowed,
    "broker refused": broker_faults.broker_refused,
    "broker's disk full": broker_faults.broker_disk_full,
}

DATABASE_FAULTS: dict[str, Fault] = {
    "database killed": database_faults.database_killed,
    "database frozen": frozen("postgresql", seconds=4),
    "database out of connections": database_faults.database_out_of_connections,
    "database cut": database_faults.database_cut,
    "database swallowed": database_faults.database_swallowed,
    "database's disk full": database_faults.database_disk_full,
}

DISPATCHER_FAULTS: dict[str, Fault] = {
    "dispatcher killed before sending": killed_at(Failpoint.DISPATCHER_TAKEN),
    "dispatcher killed": killed("dispatcher"),
    "dispatcher frozen": frozen("dispatcher", seconds=4),
    "beat killed": killed("beat"),
}

HOST_FAULTS: dict[str, Fault] = {
    "host refused": host_faults.host_killed,
    "host a black hole": host_behaves(dead=True),
    "host hangs after a force stop": host_behaves(
        faults=[{"kind": "hang", "methods": ["StopVm"], "carried_out": True}]
    ),
    "host cut in mid-answer": host_behaves(faults=[{"kind": "cut"}]),
    "host answers 500": host_behaves(faults=[{"kind": "http", "status": 500}]),
    "host answers garbage": host_behaves(faults=[{"kind": "garbage"}]),
    "host drips": host_behaves(faults=[{"kind": "drip", "interval": 0.5}]),
    "host's certificate expired": host_faults.host_certificate_expired,
    "host's VMs stopping for ever": host_behaves(never_stops=True),
    "host's VMs come back": host_behaves(undone_stops=1, undone_after=0.02),
    "host swallowed": host_faults.host_swallowed,
    "host cut by the network": host_faults.host_cut,
}

DISK_FAULTS = {"database's disk full", "broker's disk full"}
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
