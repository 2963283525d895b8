"""The limit of an API key: on a real Valkey, and on brokers that are away."""

from __future__ import annotations

import socketserver
import threading
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest
from limits import parse
from pydantic import SecretStr
from redis import ConnectionPool, Redis, SSLConnection
from structlog.testing import CapturingLogger

from shared.absence import Absence
from shared.broker import Broker, make_celery, make_redis_pool
from shared.exceptions import BrokerUnavailableError, RateLimitedError, SettingsError
from shared.models.turns import DueStop
from shared.rate_limit import RateLimit
from shared.settings import ApiSettings, BrokerSettings
from tests.support.ports import free_port
from tests.support.silent_server import SilentServer, silent_server
from tests.support.waiting import eventually


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STOP = DueStop(stop_task_id=UUID(int=1), request_id="any", cvm_id="cvm_any", host="any")


@pytest.fixture
def limit_at() -> Iterator[Callable[..., RateLimit]]:
    """Make limits as an API process does, by the broker's URL."""
    with ExitStack() as stack:

        def make(url: str, notation: str = "3/minute", absence: Absence | None = None) -> RateLimit:
            settings = BrokerSettings(broker_url=SecretStr(url), broker_timeout=0.2)
            pool = make_redis_pool(make_celery(settings), settings)
            made = RateLimit(notation, pool, absence or Absence())
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> CapturingLogger:
    """Catch what is logged."""
    logger = CapturingLogger()
    monkeypatch.setattr("shared.rate_limit.log", logger)
    return logger


@pytest.fixture
def frozen() -> Iterator[SilentServer]:
    with silent_server() as server:
        yield server


def passes(limit: RateLimit, key: UUID) -> bool:
    try:
        limit.take(key)
    except RateLimitedError:
        return False
    return True


class TestOnValkey:
    def test_it_holds_over_all_processes(
        self, limit_at: Callable[..., RateLimit], valkey: str
    ) -> None:
        key, one, other = uuid4(), limit_at(valkey), limit_at(valkey)
        assert [passes(limit, key) for limit in (one, other, one)] == [True] * 3
        assert not passes(other, key)
        assert not passes(one, key)

    def test_each_key_has_its_own(self, limit_at: Callable[..., RateLimit], valkey: str) -> None:
        limit = limit_at(valkey, "1/minute")
        one, other = uuid4(), uuid4()
        assert passes(limit, one)
        assert not passes(limit, one)
        assert passes(limit, other)

    def test_a_refusal_says_what_to_do(
        self, limit_at: Callable[..., RateLimit], valkey: str
    ) -> None:
        limit, key = limit_at(valkey, "1/minute"), uuid4()
        limit.take(key)
        with pytest.raises(RateLimitedError) as caught:
            limit.take(key)
        assert 1 <= caught.value.retry_after <= 60
        assert "its limit is 1/minute" in str(caught.value)
        assert f"send it again in {caught.value.retry_after} s" in str(caught.value)

    def test_the_window_passes_whatever_was_refused_meanwhile(
        self, limit_at: Callable[..., RateLimit], valkey: str
    ) -> None:
        limit, key = limit_at(valkey, "2/second"), uuid4()
        eventually(lambda: not passes(limit, key))
        eventually(lambda: passes(limit, key))

    def test_what_is_stored_is_small_and_no_secret(
        self, limit_at: Callable[..., RateLimit], valkey: str
    ) -> None:
        limit, key = limit_at(valkey, "500/minute"), uuid4()
        assert all(passes(limit, key) for _ in range(500))
        with Redis.from_url(valkey, decode_responses=True) as client:
            (name,) = client.keys()
            assert name == f"cvmstop-rate-limit:{{LIMITER/{key}/500/1/minute}}"
            assert client.memory_usage(name) < 500
            assert 60 < client.ttl(name) <= 120

    def test_it_survives_a_flush(self, limit_at: Callable[..., RateLimit], valkey: str) -> None:
        limit, key = limit_at(valkey, "1/minute"), uuid4()
        limit.take(key)
        with Redis.from_url(valkey) as client:
            client.flushall()
            client.script_flush()
        assert passes(limit, key)
        assert not passes(limit, key)


class TestWithoutRedis:
    def test_each_process_counts_for_itself(self, limit_at: Callable[..., RateLimit]) -> None:
        key, one, other = uuid4(), *(limit_at("amqp://nowhere", "1/hour") for _ in range(2))
        assert passes(one, key)
        assert not passes(one, key)
        assert passes(other, key)

    def test_none_is_wanted(self, limit_at: Callable[..., RateLimit], frozen: SilentServer) -> None:
        limit, key = limit_at(frozen.url, ""), uuid4()
        assert all(passes(limit, key) for _ in range(10))
        assert frozen.connections() == 0


class Garbage(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(1024)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@contextmanager
def dead() -> Iterator[str]:
    yield f"redis://:hunter2@127.0.0.1:{free_port()}/0"


@contextmanager
def frozen_broker() -> Iterator[str]:
    with silent_server() as server:
        yield server.url


@contextmanager
def something_else() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Garbage) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
        server.shutdown()
        thread.join()


def _cut(*_: object) -> None:
    raise ConnectionResetError


class TestABrokerThatIsAway:
    @pytest.mark.parametrize("broker", [dead, frozen_broker, something_else])
    def test_everything_passes_and_it_is_told_once(
        self,
        limit_at: Callable[..., RateLimit],
        logged: CapturingLogger,
        monkeypatch: pytest.MonkeyPatch,
        broker: Callable[[], AbstractContextManager[str]],
    ) -> None:
        monkeypatch.setattr("shared.absence.AWAY", 0)
        with broker() as url:
            limit, key = limit_at(url, "1/minute"), uuid4()
            assert all(passes(limit, key) for _ in range(4))
        (call,) = logged.calls
        assert call.method_name == "warning"
        assert "hunter2" not in repr(call)

    def test_it_holds_again_once_the_broker_is_back(
        self,
        limit_at: Callable[..., RateLimit],
        valkey: str,
        logged: CapturingLogger,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("shared.absence.AWAY", 0)
        limit, key = limit_at(valkey, "1/minute"), uuid4()
        assert passes(limit, key)
        assert not passes(limit, key)
        with monkeypatch.context() as patch:
            patch.setattr(ConnectionPool, "get_connection", _cut)
            assert passes(limit, key)
            assert passes(limit, key)
        assert not passes(limit, key)
        assert [call.method_name for call in logged.calls] == ["warning", "info"]

    def test_one_that_refuses_is_not_away(
        self, limit_at: Callable[..., RateLimit], valkey: str, logged: CapturingLogger
    ) -> None:
        """Full, read-only, no scripts allowed: messages may pass all the same."""
        absence = Absence()
        limit, key = limit_at(valkey, "1/minute", absence), uuid4()
        limit.take(key)
        with Redis.from_url(valkey) as client:
            (name,) = client.keys()
            client.delete(name)
            client.rpush(name, "no number")
        assert all(passes(limit, key) for _ in range(3))
        assert not absence.lasts
        (call,) = logged.calls
        assert call.kwargs == {"reason": "ResponseError"}


class TestOneMemoryForAll:
    """Or a request waits for two time-outs, one after the other."""

    @pytest.fixture(autouse=True)
    def _long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shared.absence.AWAY", 3600)

    @pytest.fixture
    def broker(self, frozen: SilentServer) -> Iterator[tuple[Broker, Absence]]:
        absence = Absence()
        settings = BrokerSettings(broker_url=SecretStr(frozen.url), broker_timeout=0.2)
        made = Broker(make_celery(settings), absence)
        yield made, absence
        made.close()

    def test_sending_is_not_tried_after_the_limit_was(
        self,
        limit_at: Callable[..., RateLimit],
        frozen: SilentServer,
        broker: tuple[Broker, Absence],
    ) -> None:
        limit_at(frozen.url, "1/minute", broker[1]).take(uuid4())
        with pytest.raises(BrokerUnavailableError, match="a moment ago"):
            broker[0].send_stops([STOP])
        assert frozen.connections() == 1

    def test_nor_the_limit_after_sending(
        self,
        limit_at: Callable[..., RateLimit],
        frozen: SilentServer,
        broker: tuple[Broker, Absence],
        logged: CapturingLogger,
    ) -> None:
        with pytest.raises(BrokerUnavailableError):
            broker[0].send_stops([STOP])
        before = frozen.connections()
        limit = limit_at(frozen.url, "1/minute", broker[1])
        assert all(passes(limit, uuid4()) for _ in range(3))
        assert frozen.connections() == before
        assert [call.kwargs for call in logged.calls] == [{"reason": "broker away"}]


class TestConnections:
    def test_they_are_the_brokers_own(self) -> None:
        """kombu and redis-py read `rediss` URLs differently; the one for messages counts."""
        url = "rediss://user:p%40ss@broker:7000/2?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs=ca.pem"
        settings = BrokerSettings(broker_url=SecretStr(url), broker_timeout=0.2)
        pool = make_redis_pool(make_celery(settings), settings)
        assert pool is not None
        made = pool.connection_kwargs
        where = [made[name] for name in ("host", "port", "username", "password", "db")]
        assert where == ["broker", 7000, "user", "p@ss", "2"]
        assert [made["socket_timeout"], made["socket_connect_timeout"]] == [0.2, 0.2]
        assert made["ssl_cert_reqs"].name == "CERT_REQUIRED"
        assert made["ssl_ca_certs"] == "ca.pem"
        connection = pool.make_connection()
        assert isinstance(connection, SSLConnection)
        assert connection.retry.get_retries() == 0


@pytest.mark.usefixtures("environment")
class TestSetting:
    @pytest.mark.parametrize(
        "notation", ["1/second", "3600/minute", "100 per 10 seconds", "9/day", ""]
    )
    def test_taken(self, notation: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CVMSTOP_RATE_LIMIT", f" {notation} ")
        assert ApiSettings.load().rate_limit == notation

    @pytest.mark.parametrize(
        "notation", ["many", "10", "10/fortnight", "-1/minute", "1/second;5/minute"]
    )
    def test_refused(self, notation: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CVMSTOP_RATE_LIMIT", notation)
        with pytest.raises(SettingsError, match="CVMSTOP_RATE_LIMIT: not a limit such as 3600/min"):
            ApiSettings.load()

    @pytest.mark.parametrize(
        ("notation", "problem"),
        [
            ("0/minute", "may be 0"),
            ("10/0 seconds", "may be 0"),
            ("10 per 00 days", "may be 0"),
            ("0/0 hours", "may be 0"),
            ("10/86401 seconds", "one day at most"),
            ("10/2 days", "one day at most"),
            ("10/month", "one day at most"),
            ("10/99999999999 years", "one day at most"),
        ],
    )
    def test_refused_for_its_numbers(
        self, notation: str, problem: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CVMSTOP_RATE_LIMIT", notation)
        with pytest.raises(SettingsError, match=f"CVMSTOP_RATE_LIMIT: .*{problem}"):
            ApiSettings.load()

    def test_the_default_leaves_a_script_alone(self) -> None:
        """3,000 batches within a minute."""
        limit = parse(ApiSettings.load().rate_limit)
        assert limit.amount * 60 / limit.get_expiry() >= 3_000
