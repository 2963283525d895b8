"""The broker: names, the Celery configuration that both sides share, and sending.

The only module of `shared` that names Celery. The database is the truth; a message only says that
a row may be due. So nothing here needs to be acknowledged, kept or deduplicated; see
docs/decisions/0002-celery-settings.md for what was measured.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery import Celery
from kombu import Connection, Producer, Queue
from redis import ConnectionPool, SSLConnection

from shared.absence import Absence
from shared.exceptions import BrokerUnavailableError
from shared.stop_messages import StopMessages


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from shared.models.turns import DueStop
    from shared.settings import BrokerSettings

STOP_TASK = "cvmstop.stop"
"""Celery task: take one turn with one stop. Its id is the stop task's id."""

DISPATCH_TASK = "cvmstop.dispatch"
"""Celery task: one round of the dispatcher."""

PURGE_TASK = "cvmstop.purge"
"""Celery task: delete finished batches that are older than the retention, for a few seconds."""

SYNC_DUE_TASK = "cvmstop.sync_due"
"""Celery task: send a `SYNC_HOST_TASK` for each host whose list is due to be read."""

SYNC_HOST_TASK = "cvmstop.sync_host"
"""Celery task: read one host's list of VMs, and make the rows true."""

WEBHOOKS_TASK = "cvmstop.webhooks"
"""Celery task: write events down for webhooks' endpoints, and begin to send what is due."""

HEARTBEAT_TASK = "cvmstop.heartbeat"
"""Celery task: nothing. A worker sends it to itself, to see whether it consumes."""

STOPS_QUEUE = "stops"
"""Queue of `STOP_TASK` and `SYNC_HOST_TASK`; any number of workers."""

HOUSEKEEPING_QUEUE = "housekeeping"
"""Queue of the dispatcher, with a worker of its own: it must run while every slot is busy.

What else runs there takes one slot of a process at most.
"""

HEALTH_CHECK_INTERVAL = 5
"""Seconds, whole ones. A worker's connection that went silent is dropped after twice that and one.

kombu's own 25 s make it 51 s (its `health_check_interval`). A connection that was idle for longer
is tried with a PING before it is used.
"""

REDIS_SCHEMES = ("redis", "rediss")
"""How the URL of a broker begins that is Redis or Valkey."""

REDIS_PORT = 6379
"""Where it listens unless the URL says otherwise, as kombu takes it."""


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
    is_redis = url.partition("://")[0] in REDIS_SCHEMES
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
        "health_check_interval": HEALTH_CHECK_INTERVAL,
    }


def make_redis_pool(app: Celery, settings: BrokerSettings) -> ConnectionPool | None:
    """Make connections to the broker for other things than messages, bounded as sends are.

    Parameters
    ----------
    app
        Made by `make_celery`: its reading of the broker's URL is the one that counts. redis-py's
        own differs in TLS.
    settings
        Gives the broker's time-outs.

    Returns
    -------
    ConnectionPool or None
        Nothing is connected to yet. None when the broker is not Redis or Valkey.
    """
    broker = app.connection_for_write()
    if broker.transport_cls not in REDIS_SCHEMES:
        return None
    options: dict[str, Any] = {
        "host": broker.hostname or "127.0.0.1",
        "port": broker.port or REDIS_PORT,
        "username": broker.userid,
        "password": broker.password,
        "db": broker.virtual_host.strip("/") or "0",
        # Saves trips when connecting, each of which may take a time-out: 3 begins with a HELLO.
        "protocol": 2,
        "driver_info": None,
        "socket_connect_timeout": settings.broker_timeout,
        "socket_timeout": settings.broker_timeout,
        "socket_keepalive": True,
    }
    if isinstance(broker.ssl, dict):
        options.update(broker.ssl, connection_class=SSLConnection)
    return ConnectionPool(**options)


class Broker:
    """Sends messages; waits no longer than a bound (I7).

    Parameters
    ----------
    app
        Made by `make_celery`.
    absence
        Shared with what else talks to the broker in this process, if anything does.
    """

    def __init__(self, app: Celery, absence: Absence | None = None) -> None:
        self._app = app
        self._absence = absence or Absence()
        self._is_redis = app.connection_for_write().transport_cls in REDIS_SCHEMES
        self._learning = threading.Lock()
        self._messages: StopMessages | None = None

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
        with self._producer(failure) as producer:
            if self._is_redis and (ready := self._known_messages().make_all(stops)):
                with producer.channel.conn_or_acquire() as client:
                    client.lpush(STOPS_QUEUE, *ready)
                return
            with producer.batch():
                for stop in stops:
                    self._publish(producer, stop)

    def _known_messages(self) -> StopMessages:
        """Give what makes messages; learns it the first time, by publishing to nowhere."""
        with self._learning:
            if self._messages is None:
                self._messages = StopMessages.from_prototype(self._publish_to_memory)
            return self._messages

    def _publish_to_memory(self, stop: DueStop) -> dict[str, Any]:
        with Connection("memory://") as nowhere:
            channel: Any = nowhere.default_channel
            self._publish(Producer(channel), stop)
            published: dict[str, Any] = channel._get(STOPS_QUEUE)  # noqa: SLF001 - what a transport implements
            return published

    def _publish(self, producer: Producer, stop: DueStop) -> None:
        self._app.send_task(
            STOP_TASK,
            args=(str(stop.stop_task_id),),
            kwargs={"request_id": stop.request_id},
            # What Flower shows from the message's arrival on. The argument itself is the task's id,
            # which it shows anyway; workers read none of it.
            argsrepr=stop.shown,
            task_id=str(stop.stop_task_id),
            queue=STOPS_QUEUE,
            producer=producer,
            retry=False,
        )

    def send_syncs(self, host_ids: Sequence[UUID], *, expires: float) -> None:
        """Send one Celery task for each host whose list is to be read.

        Parameters
        ----------
        host_ids
            The hosts.
        expires
            Seconds after which a worker that gets the message does nothing: the next one is sent.

        Raises
        ------
        BrokerUnavailableError
            Some or all were not sent, as far as is known.
        """
        if not host_ids:
            return
        failure = f"the broker did not take {len(host_ids)} messages"
        with self._producer(failure) as producer, producer.batch():
            for host_id in host_ids:
                self._app.send_task(
                    SYNC_HOST_TASK,
                    args=(str(host_id),),
                    queue=STOPS_QUEUE,
                    expires=expires,
                    producer=producer,
                    retry=False,
                )

    def send_heartbeat(self, queue: str) -> None:
        """Send a worker's heartbeat to the queue of its own.

        Raises
        ------
        BrokerUnavailableError
            It was not sent, as far as is known.
        """
        with self._producer("the broker did not take a heartbeat") as producer:
            self._app.send_task(HEARTBEAT_TASK, queue=queue, producer=producer, retry=False)

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

        After a failure nobody tries for a moment.
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
            self._absence.begin()
            msg = f"{failure}: {type(error).__name__}"
            raise BrokerUnavailableError(msg) from error

    def _refuse_while_away(self, failure: str) -> None:
        if self._absence.lasts:
            msg = f"{failure}: it did not a moment ago"
            raise BrokerUnavailableError(msg)

    def close(self) -> None:
        """Close kept connections."""
        self._app.close()
