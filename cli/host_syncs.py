"""Reading what runs on VM hosts, many at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cli import edge
from shared.database import transaction
from shared.models.inventory import SyncCounts
from shared.sealing import Sealer
from shared.services.hosts import require_hosts
from shared.settings import Settings
from workers.drivers.registry import Drivers
from workers.inventory import HostSyncs


if TYPE_CHECKING:
    from collections.abc import Sequence

    from workers.inventory import SyncResult

AT_ONCE = 32
"""Hosts that are asked at once, so that silent ones hold nobody up."""

Report = dict[str, Any]
"""Fields: `host`, those of `SyncCounts`, `error`. What could not be found out is None."""


def sync_hosts(names: Sequence[str]) -> list[Report]:
    """Sync the named hosts (all when none is named), also those whose breaker is open.

    Raises
    ------
    CvmstopError
        No such host, or the settings or the database are not well.
    """
    settings = Settings.load()
    with edge.database(settings) as engine:
        with transaction(engine) as session:
            host_ids = [host.id for host in require_hosts(session, names)]
        drivers = Drivers(settings)
        syncs = HostSyncs(engine, drivers, Sealer(settings.sealing_keys), settings)
        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                results = pool.map(lambda host_id: syncs.run(host_id, heed_breaker=False), host_ids)
                return [_report(result) for result in results]
        finally:
            drivers.close()


def _report(result: SyncResult) -> Report:
    if result.counts is None:
        nothing = dict.fromkeys(asdict(SyncCounts(vms=0)))
        return {"host": result.host, **nothing, "error": result.error}
    return {"host": result.host, **asdict(result.counts), "error": None}
