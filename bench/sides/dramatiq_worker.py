"""What `dramatiq bench.sides.dramatiq_worker` serves."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import dramatiq

from bench.sides.dramatiq_side import ACTOR, QUEUE, make_broker, send
from bench.sides.turns import WORKER, make_parts
from shared.settings import BrokerSettings
from workers.stops import work_on_stop


if TYPE_CHECKING:
    from workers.parts import WorkerParts

broker = make_broker(BrokerSettings.load().broker_url.get_secret_value())
dramatiq.set_broker(broker)


class Opening(dramatiq.Middleware):
    """Wires the process before its threads start: the process that forks it has no use for that."""

    parts: WorkerParts

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Open what the turns need."""
        del broker, worker
        self.parts = make_parts(lambda stops: send(globals()["broker"], stops))


opening = Opening()
broker.add_middleware(opening)


@dramatiq.actor(actor_name=ACTOR, queue_name=QUEUE)
def stop(stop_task_id: str) -> None:
    """Take one turn with one stop."""
    work_on_stop(opening.parts, UUID(stop_task_id), worker=WORKER)
