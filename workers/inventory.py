"""Reading one host's list of VMs, and having the rows made true by it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from shared.database import transaction
from shared.exceptions import DatabaseUnavailableError, SealError
from shared.models.errors import Fate
from shared.models.inventory import ListedVm
from shared.services.inventory_sync import write_list
from shared.services.stops import connection_of
from shared.storage.sync_schedule import find_host, note_failure
from workers.drivers.errors import HostError
from workers.drivers.protocol import CallBounds
from workers.turns import internal_failure


if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from sqlalchemy import Engine

    from shared.models.inventory import HostToSync, SyncCounts
    from shared.models.turns import Exchange
    from shared.sealing import Sealer
    from shared.settings import Settings
    from workers.drivers.registry import Drivers

log = structlog.get_logger(__name__)

SHARE_OF_SLOTS = 10
"""One in so many of a worker's slots is for syncs at most: the others are for stops."""

WRITERS = 4
"""Syncs of one process that write at once; they would take each other's time, and connections to
the database from stops. Each takes some hundredths of a second for it.
"""

NO_PLACE = "as many syncs run here as may: the next interval's goes on"
"""Result of a sync that was not begun."""

GONE = "the host was removed"
SUPERSEDED = "a later list is written down already, or the host was replaced meanwhile"
BREAKER_OPEN = "not asked: the host does not answer stops, its breaker is open"


@dataclass(frozen=True, kw_only=True)
class SyncResult:
    """How one sync went: either counts, or why nothing was written."""

    host: str
    """Its name; its id where it is gone."""
    counts: SyncCounts | None = None
    problem: str | None = None

    @property
    def error(self) -> str | None:
        """What is not well; None also where another sync was quicker."""
        return None if self.problem == SUPERSEDED else self.problem

    def __str__(self) -> str:
        """Say it to a person."""
        if self.counts is None:
            return self.problem or "nothing was written"
        return ", ".join(
            f"{name} {getattr(self.counts, name)}"
            for name in ("vms", "updated", "adopted", "vanished", "unassigned", "drifted")
        )


class HostSyncs:
    """The syncs of one process: each reads a host's list, and writes it down.

    Parameters
    ----------
    engine, drivers, sealer
        What the process has.
    settings
        Gives the time-outs.
    """

    def __init__(
        self, engine: Engine, drivers: Drivers, sealer: Sealer, settings: Settings
    ) -> None:
        self._engine = engine
        self._drivers = drivers
        self._sealer = sealer
        self._longest = settings.host_connect_timeout + settings.host_query_timeout
        self._counting = threading.Lock()
        self._running = 0
        self._writing = threading.BoundedSemaphore(WRITERS)
        self.most = 1
        """How many may run at once by `run_if_room`."""

    def fit_into(self, slots: int) -> None:
        """Leave most of a worker's slots to stops."""
        self.most = max(1, slots // SHARE_OF_SLOTS)

    def run_if_room(self, host_id: UUID) -> str:
        """Sync a host, unless enough do, or its breaker is open; gives what came of it.

        Hosts that accept connections and say nothing hold a slot each until their time-outs.

        Raises
        ------
        DatabaseUnavailableError
            Nothing was written; the next interval's sync goes on.
        """
        with self._place() as is_free:
            if not is_free:
                return NO_PLACE
            result = self.run(host_id, heed_breaker=True)
        with structlog.contextvars.bound_contextvars(host=result.host):
            _tell(result)
        return str(result)

    @contextmanager
    def _place(self) -> Iterator[bool]:
        with self._counting:
            is_free = self._running < self.most
            self._running += is_free
        try:
            yield is_free
        finally:
            with self._counting:
                self._running -= is_free

    def run(self, host_id: UUID, *, heed_breaker: bool) -> SyncResult:
        """Sync a host.

        Parameters
        ----------
        host_id
            The host.
        heed_breaker
            Whether not to ask a host whose breaker is open.

        Raises
        ------
        DatabaseUnavailableError
            The database was away, before the host was asked or after it. Nothing was written.
        """
        with transaction(self._engine) as session:
            host = find_host(session, host_id)
        if host is None:
            return SyncResult(host=str(host_id), problem=GONE)
        if heed_breaker and host.breaker_is_open:
            return self._failed(host, BREAKER_OPEN)
        try:
            return self._sync(host)
        except HostError as error:
            is_unreachable = error.fate in {Fate.UNREACHABLE, Fate.UNKNOWN}
            return self._failed(host, str(error), is_unreachable=is_unreachable)
        except SealError as error:
            problem = str(error)
        except DatabaseUnavailableError:
            raise
        except Exception as error:
            log.exception("sync broke", host=host.reached_by.name)
            problem = internal_failure(error).message
        return self._failed(host, problem)

    def _sync(self, host: HostToSync) -> SyncResult:
        vms = self._ask(host)
        with self._writing, transaction(self._engine) as session:
            counts = write_list(
                session, host.id, vms, asked_at=host.asked_at, asked=host.reached_by
            )
        if counts is None:
            return SyncResult(host=host.reached_by.name, problem=SUPERSEDED)
        return SyncResult(host=host.reached_by.name, counts=counts)

    def _ask(self, host: HostToSync) -> list[ListedVm]:
        """Read the list: a whole one, or an error. No database connection is held meanwhile."""
        driver = self._drivers.get(connection_of(host.reached_by, self._sealer))
        bounds = CallBounds(deadline=time.monotonic() + self._longest, record=_forget)
        return [
            ListedVm(vm_uuid=vm.vm_uuid, name=vm.name, power_state=vm.power_state)
            for vm in driver.list_vms(bounds)
        ]

    def _failed(
        self, host: HostToSync, problem: str, *, is_unreachable: bool = False
    ) -> SyncResult:
        with transaction(self._engine) as session:
            note_failure(
                session,
                host.id,
                problem,
                asked_at=host.asked_at,
                is_unreachable=is_unreachable,
            )
        return SyncResult(host=host.reached_by.name, problem=problem)


def _tell(result: SyncResult) -> None:
    """Log what is news; the host is bound to the line."""
    counts = result.counts
    if counts is None:
        log.warning("host not synced", error=result.problem)
        return
    if counts.unusable:
        log.warning("VMs without an id of their own", vms=counts.unusable)
    if counts.updated or counts.adopted:
        log.info(
            "host synced",
            vms=counts.vms,
            updated=counts.updated,
            adopted=counts.adopted,
            vanished=counts.vanished,
            drifted=counts.drifted,
        )


def _forget(exchange: Exchange) -> None:
    """Take what was sent and answered; the result says enough."""
