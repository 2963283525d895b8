"""The broker: names, the Celery configuration that both sides share, and sending.

The only module of `shared` that names Celery. The database is the truth; a message only says that
a row may be due. So nothing here needs to be acknowledged, kept or deduplicated; see
docs/decisions/0002-celery-settings.md for what was measured.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery import Celery
from kombu import Queue

from shared.exceptions import BrokerUnavailableError


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shared.models.turns import DueStop
    from shared.settings import BrokerSettings

STOP_TASK = "cvmstop.stop"
"""Celery task: take one turn with one stop. Its id is the stop task's id."""

DISPATCH_TASK = "cvmstop.dispatch"
"""Celery task: one round of the dispatcher."""

STOPS_QUEUE = "stops"
"""Queue of `STOP_TASK`; any number of workers."""

HOUSEKEEPING_QUEUE = "housekeeping"
"""Queue of the dispatcher, with a worker of its own: it must run while every slot is busy."""

AWAY = 0.5
"""Seconds after a failure in which the broker is not tried; a dispatcher's round takes 1 s."""


def make_celery(settings: BrokerSettings, **extra: Any) -> Celery:
    """Make a Celery app with everything that senders and workers must agree on.

    Parameters
    ----------
    settings
        Gives the broker's URL and time-outs.
    extra
        Further Celery settings, for the workers.
    """
    url = settings.broker_url.get_secret_value()
    is_redis = url.startswith(("redis:", "rediss:"))
    app = Celery("cvmstop", broker=url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_default_queue=STOPS_QUEUE,
        # Redis acknowledges nothing: see the module's docstring. A broker that pushes (RabbitMQ)
        # needs acknowledgements to be kept from handing one worker everything.
        task_queues=[
            Queue(STOPS_QUEUE, no_ack=is_redis),
            Queue(HOUSEKEEPING_QUEUE, no_ack=is_redis),
        ],
        task_create_missing_queues=False,
        task_publish_retry=False,
        broker_connection_timeout=settings.broker_timeout,
        broker_transport_options=_redis_options(settings) if is_redis else {},
        **extra,
    )
    return app


def takes_without_acknowledging(app: Celery) -> bool:
    """Whether workers take messages for good, with nothing to acknowledge afterwards."""
    return all(queue.no_ack for queue in app.conf.task_queues)


def _redis_options(settings: BrokerSettings) -> dict[str, Any]:
    return {
        "socket_connect_timeout": settings.broker_timeout,
        "socket_timeout": settings.broker_timeout,
        "socket_keepalive": True,
        "max_retries": 0,
    }


class Broker:
    """Sends messages; waits no longer than a bound (I7).

    Parameters
    ----------
    app
        Made by `make_celery`.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._away_until = 0.0

    def send_stops(self, stops: Sequence[DueStop]) -> None:
        """Send one Celery task for each stop, all in one trip where the broker allows it.

        Raises
        ------
        BrokerUnavailableError
            Some or all were not sent, as far as is known. The dispatcher will send them again.
        """
        if not stops:
            return
        failure = f"the broker did not take {len(stops)} messages"
        with self._producer(failure) as producer, producer.batch():
            for stop in stops:
                self._app.send_task(
                    STOP_TASK,
                    args=(str(stop.stop_task_id),),
                    kwargs={"request_id": stop.request_id},
                    task_id=str(stop.stop_task_id),
                    queue=STOPS_QUEUE,
                    producer=producer,
                    retry=False,
                )

    def count_waiting(self) -> int:
        """Count the messages that wait for a worker.

        Raises
        ------
        BrokerUnavailableError
            The broker does not answer, or not in time.
        """
        with self._producer("the broker does not answer") as producer:
            declared: Any = Queue(STOPS_QUEUE)(producer.channel).queue_declare()
            return int(declared.message_count)

    @contextmanager
    def _producer(self, failure: str) -> Iterator[Any]:
        """Give a kombu `Producer` to send by; turn what goes wrong into one error.

        After a failure nobody tries for a moment: with a frozen broker, requests that come together
        would else wait for each other's time-outs, one after the other.
        """
        self._refuse_while_away(failure)
        try:
            with self._app.producer_or_acquire() as producer:
                self._refuse_while_away(failure)
                yield producer
        except BrokerUnavailableError:
            raise
        except Exception as error:
            # Whatever it is: clients of brokers are known to let an AttributeError out when a
            # connection breaks, and what is sent was committed before and must not fail for it.
            self._away_until = time.monotonic() + AWAY
            msg = f"{failure}: {type(error).__name__}"
            raise BrokerUnavailableError(msg) from error

    def _refuse_while_away(self, failure: str) -> None:
        if time.monotonic() < self._away_until:
            msg = f"{failure}: it did not a moment ago"
            raise BrokerUnavailableError(msg)

    def close(self) -> None:
        """Close kept connections."""
        self._app.close()
