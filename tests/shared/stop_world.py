"""Who asks, and what there is to stop, in the state machine's tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.database import transaction
from shared.models.callers import Caller
from tests.support.model_host import ModelHost, ModelVm
from tests.support.seeds import make_caller, make_cvm, make_host, make_workspace


if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Engine

    from shared.settings import Settings
    from tests.support.moved_clock import MovedClock

CAPS = (1, 2, 2)
"""The caps of the hosts. Each host has one VM more than it may stop at once."""

SHORT = {
    "stop_deadline": 300.0,
    "stop_max_failures": 3,
    "retry_backoff_max": 10.0,
    "lease": 30.0,
    "turn_limit": 20.0,
    "host_query_timeout": 5.0,
    "host_stop_timeout": 8.0,
    "look_seconds": 2.0,
    "look_interval": 1.0,
    "confirm_interval_max": 8.0,
    "reissue_after": 10.0,
    "restart_guard": 7.0,
    "breaker_threshold": 2,
}
"""Settings with which a few steps reach every bound; in the proportions of the defaults."""

RESET = """
    DELETE FROM stop_attempts; DELETE FROM stop_tasks; DELETE FROM stop_batches;
    DELETE FROM cvm_operations;
    UPDATE cvms SET in_progress = false, status = 'running';
    UPDATE vm_hosts SET unreachable_count = 0, breaker_open_until = NULL, last_error = NULL,
        unreachable_since = NULL;
"""
"""Makes the rows what they were; a tenth of the time that it takes to write them all anew."""


@dataclass(frozen=True)
class World:
    """What every example begins with."""

    engine: Engine
    settings: Settings
    callers: tuple[Caller, ...]
    """An admin, and a member of each workspace."""
    cvm_ids: tuple[str, ...]
    """Hash ids; the last one is of no CVM."""
    vms: dict[UUID, tuple[str, ...]]
    """Host → ids of its VMs."""

    def reset(self) -> None:
        """Forget all stops and operations."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql(RESET)

    def make_hosts(self, clock: MovedClock) -> dict[UUID, ModelHost]:
        """Make the hosts, with every VM running."""
        hangs = int(self.settings.host_query_timeout)
        return {
            host: ModelHost(clock, hangs, {vm: ModelVm() for vm in vms})
            for host, vms in self.vms.items()
        }


def make_world(engine: Engine, settings: Settings) -> World:
    """Write it into an emptied database."""
    vms: dict[UUID, tuple[str, ...]] = {}
    with transaction(engine) as session:
        workspaces = make_workspace(session), make_workspace(session)
        callers = (
            make_caller(session, workspaces[0], admin=True)[0],
            *(make_caller(session, workspace)[0] for workspace in workspaces),
        )
        cvms = [make_cvm(session, workspace) for workspace in workspaces]
        for cap in CAPS:
            host = make_host(session, cap=cap)
            own = [make_cvm(session, workspaces[n % 2], host) for n in range(cap + 1)]
            vms[host.id] = tuple(cvm.vm_uuid for cvm in own if cvm.vm_uuid)
            cvms += own
        rented = make_host(session)
        cvms.append(make_cvm(session, workspaces[0], rented, gpu_rental_order="order-1"))
        cvm_ids = (*(cvm.hash_id for cvm in cvms), "cvm_unknown")
    return World(
        engine=engine,
        settings=settings.model_copy(update=SHORT),
        callers=callers,
        cvm_ids=cvm_ids,
        vms=vms,
    )
