"""Sending: on a real Valkey, and on a broker that goes away on cue."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from fakeredis import FakeRedis, FakeServer
from kombu.transport.redis import Channel
from pydantic import SecretStr
from redis import Redis

from shared.broker import STOP_TASK, STOPS_QUEUE, Broker, make_celery
from shared.exceptions import BrokerUnavailableError
from shared.models.turns import DueStop
from shared.settings import BrokerSettings
from tests.support.ports import free_port
from tests.support.waiting import eventually


if TYPE_CHECKING:
    from collections.abc import Iterator


def due_stop(request_id: str = "from-afar", *, host: str = "node-7") -> DueStop:
    return DueStop(
        stop_task_id=uuid4(), request_id=request_id, cvm_id=f"cvm_{uuid4().hex}", host=host
    )


def stops(count: int = 3) -> list[DueStop]:
    return [due_stop() for _ in range(count)]


def broker_at(url: str) -> Broker:
    return Broker(make_celery(BrokerSettings(broker_url=SecretStr(url), broker_timeout=0.2)))


def somewhere(password: str = "") -> str:
    """Give a URL that no other test has: kombu keeps connections by URL, for the whole process."""
    return f"redis://:{password}@{uuid4()}/0"


class TestOnValkey:
    @pytest.fixture
    def broker(self, valkey: str) -> Iterator[Broker]:
        made = broker_at(valkey)
        yield made
        made.close()

    def test_a_message_holds_ids_and_names_alone(self, broker: Broker, valkey: str) -> None:
        (stop,) = stops(1)
        broker.send_stops([stop])
        with Redis.from_url(valkey) as client:
            (raw,) = client.lrange(STOPS_QUEUE, 0, -1)
        headers = json.loads(raw)["headers"]
        assert (headers["task"], headers["id"]) == (STOP_TASK, str(stop.stop_task_id))
        assert headers["argsrepr"] == f"{stop.cvm_id} on node-7"
        assert headers["kwargsrepr"] == "{'request_id': 'from-afar'}"

    @pytest.mark.parametrize(
        ("request_id", "host"),
        [
            ("from-afar", "node-7"),
            ("with spaces: ~!", "node-7"),
            ('it\'s "quoted" \\', "node-7"),
            ("ü", "node-7"),
            ("from-afar", 'a "host"'),
        ],
    )
    def test_it_is_the_message_that_celery_makes(
        self, broker: Broker, valkey: str, request_id: str, host: str
    ) -> None:
        """Each is made from a prototype; whatever Celery puts into one must be in it."""
        stop = due_stop(request_id, host=host)
        app = make_celery(BrokerSettings(broker_url=SecretStr(valkey)))
        app.send_task(
            STOP_TASK,
            args=(str(stop.stop_task_id),),
            kwargs={"request_id": request_id},
            argsrepr=stop.shown,
            task_id=str(stop.stop_task_id),
            queue=STOPS_QUEUE,
        )
        broker.send_stops([stop])
        app.close()
        with Redis.from_url(valkey) as client:
            ours, theirs = (json.loads(each) for each in client.lrange(STOPS_QUEUE, 0, -1))
        tags = {message["properties"].pop("delivery_tag") for message in (ours, theirs)}
        assert len(tags) == 2
        for message in (ours, theirs):
            message["properties"].pop("reply_to")  # an id of the sender's thread, for answers
            message["body"] = json.loads(base64.b64decode(message["body"]))
        assert ours == theirs

    def test_each_delivery_has_a_tag_of_its_own(self, broker: Broker, valkey: str) -> None:
        broker.send_stops(stops(5))
        with Redis.from_url(valkey) as client:
            sent = [json.loads(each) for each in client.lrange(STOPS_QUEUE, 0, -1)]
        assert len({message["properties"]["delivery_tag"] for message in sent}) == 5

    def test_a_batch_is_one_trip(self, broker: Broker, valkey: str) -> None:
        broker.send_stops(stops(1))
        with Redis.from_url(valkey) as client:
            before = _reads(client)
            broker.send_stops(stops(50))
            own_reads = _reads(client) - before - 1
            assert client.llen(STOPS_QUEUE) == 51
        # The server reads 45 KB in a few pieces; a trip for each message would be 50 at least.
        assert own_reads < 25

    def test_a_flushed_broker_takes_messages(self, broker: Broker, valkey: str) -> None:
        broker.send_stops(stops())
        with Redis.from_url(valkey) as client:
            client.flushall()
            broker.send_stops(stops())
            assert client.llen(STOPS_QUEUE) == 3

    def test_count_waiting(self, broker: Broker) -> None:
        assert broker.count_waiting() == 0
        broker.send_stops(stops(3))
        assert broker.count_waiting() == 3

    def test_nothing_to_send(self) -> None:
        broker_at(f"redis://127.0.0.1:{free_port()}/0").send_stops([])


class TestOnABrokerThatGoesAway:
    @pytest.fixture
    def server(self, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
        made = FakeServer()
        monkeypatch.setattr(
            Channel, "_get_client", lambda _: lambda **_options: FakeRedis(server=made)
        )
        return made

    def test_it_is_told_and_works_again_once_it_is_back(self, server: FakeServer) -> None:
        broker = broker_at(somewhere())
        broker.send_stops(stops())
        server.connected = False
        with pytest.raises(BrokerUnavailableError, match="did not take 3 messages"):
            broker.send_stops(stops())
        with pytest.raises(BrokerUnavailableError, match="does not answer"):
            broker.count_waiting()
        server.connected = True
        eventually(lambda: sends(broker))
        assert FakeRedis(server=server).llen(STOPS_QUEUE) == 6

    def test_it_is_left_alone_for_a_moment(
        self, server: FakeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Or requests that come together wait for one time-out after the other."""
        monkeypatch.setattr("shared.absence.AWAY", 3600)
        broker = broker_at(somewhere())
        server.connected = False
        with pytest.raises(BrokerUnavailableError, match="OperationalError"):
            broker.send_stops(stops())
        server.connected = True
        with pytest.raises(BrokerUnavailableError, match="a moment ago"):
            broker.send_stops(stops())

    def test_whatever_its_client_raises_is_one_error(
        self,
        server: FakeServer,  # noqa: ARG002 - nobody is contacted
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The stops are committed by then: sending must not fail a request."""

        def broken(*_: object, **__: object) -> None:
            msg = "'NoneType' object has no attribute 'hostname'"
            raise AttributeError(msg)

        app = make_celery(BrokerSettings(broker_url=SecretStr(somewhere())))
        monkeypatch.setattr(app, "send_task", broken)
        with pytest.raises(BrokerUnavailableError, match="AttributeError"):
            Broker(app).send_stops(stops())

    def test_the_reason_never_holds_the_url(self, server: FakeServer) -> None:
        server.connected = False
        with pytest.raises(BrokerUnavailableError) as caught:
            broker_at(somewhere(password="hunter2")).send_stops(stops())
        assert "hunter2" not in str(caught.value)


def sends(broker: Broker) -> bool:
    try:
        broker.send_stops(stops())
    except BrokerUnavailableError:
        return False
    return True


def _reads(client: Redis) -> int:
    """Count the reads from sockets that the server has done: one for each trip at least."""
    return int(client.info("stats")["total_reads_processed"])
