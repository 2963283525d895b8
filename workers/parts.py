"""The one place that wires a worker process together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.broker import Broker
from shared.engine import make_engine
from shared.schema import require_current_schema
from shared.sealing import Sealer
from shared.spans import NO_TRACING
from shared.tracing import make_tracing
from workers.drivers.registry import Drivers
from workers.inventory import HostSyncs
from workers.metrics import WorkerMetrics
from workers.webhooks.lanes import make_lanes


if TYPE_CHECKING:
    from celery import Celery
    from sqlalchemy import Engine

    from shared.settings import Settings
    from shared.spans import Tracing
    from workers.webhooks.lanes import Lanes


@dataclass(frozen=True, kw_only=True)
class WorkerParts:
    """What one worker process has, for its whole life; used by all of its threads."""

    settings: Settings
    engine: Engine
    broker: Broker
    sealer: Sealer
    drivers: Drivers
    syncs: HostSyncs
    webhooks: Lanes
    metrics: WorkerMetrics
    tracing: Tracing = NO_TRACING

    def close(self) -> None:
        """Close what is open."""
        self.webhooks.close()
        self.drivers.close()
        self.engine.dispose()
        self.tracing.close()


def make_worker_parts(broker: Broker, settings: Settings) -> WorkerParts:
    """Wire a worker process together, and refuse to on a schema that is not current.

    Raises
    ------
    SettingsError
        A sealing key is wrong.
    SchemaError
        The database's schema is not this program's.
    DatabaseUnavailableError
        The database does not answer.
    """
    engine = make_engine(settings, application="worker")
    sealer = Sealer(settings.sealing_keys)
    drivers = Drivers(settings)
    metrics = WorkerMetrics()
    parts = WorkerParts(
        settings=settings,
        engine=engine,
        broker=broker,
        sealer=sealer,
        drivers=drivers,
        syncs=HostSyncs(engine, drivers, sealer, settings),
        tracing=make_tracing("cvmstop-worker"),
        webhooks=make_lanes(engine, settings, metrics),
        metrics=metrics,
    )
    require_current_schema(parts.engine)
    return parts


class WorkerProcess:
    """Holds a worker process's parts, from its start to its end."""

    def __init__(self) -> None:
        self._parts: WorkerParts | None = None

    @property
    def parts(self) -> WorkerParts:
        """The parts; there are none before `open`."""
        if self._parts is None:
            msg = "the worker has not been opened"
            raise RuntimeError(msg)
        return self._parts

    def open(self, app: Celery, settings: Settings) -> None:
        """Wire the process; raises what `make_worker_parts` raises."""
        self._parts = make_worker_parts(Broker(app), settings)

    def close(self) -> None:
        """Close what is open."""
        if self._parts is not None:
            self._parts.close()
