"""One try: what is sent, how it is signed, and where it never goes."""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import trustme
from pydantic import SecretStr

from shared.exceptions import UnusableUrlError
from shared.models.webhooks import new_secret
from shared.services.webhook_targets import NOT_OUTSIDE, TargetPolicy
from shared.storage.webhook_deliveries import ClaimedDelivery
from tests.shared.test_addresses import INSIDE
from tests.support.webhook_receiver import Receiver, webhook_receiver
from tests.workers.drivers.raw_hosts import Peer, RawHost, answering, http_answer
from workers.webhooks.sending import Sender


if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.settings import Settings

SECRET = new_secret()
BODY = '{"id":"evt_1","name":"für \\"alle\\""}'


def delivery(url: str) -> ClaimedDelivery:
    return ClaimedDelivery(
        id=uuid4(),
        webhook_id=uuid4(),
        attempt=1,
        failures=0,
        event_id="evt_1",
        event="cvm.stop.failed",
        body=BODY,
        url=url,
        sealed_secret=b"",
        is_failing=False,
    )


@pytest.fixture
def policy(settings: Settings) -> TargetPolicy:
    return TargetPolicy(
        settings.model_copy(
            update={"webhook_allowed_networks": "127.0.0.1/32", "webhook_allow_http": True}
        )
    )


@pytest.fixture
def sender(policy: TargetPolicy) -> Sender:
    return Sender(policy)


@pytest.fixture
def receiver() -> Any:
    with webhook_receiver() as made:
        yield made


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Say what names resolve to: an answer for each look-up, the last one ever after."""
    answers: list[list[str]] = []
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **named: Any) -> Any:
        if host != "hooks.test":
            return real(host, port, *args, **named)
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(family[":" in each], socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return answers


def test_what_is_sent(sender: Sender, receiver: Receiver) -> None:
    outcome = sender.send(delivery(receiver.url), SECRET)
    assert (outcome.status, outcome.error) == (204, None)
    (got,) = receiver.received
    assert got.raw == BODY.encode()
    assert got.path == "/hook?token=in-the-url"
    assert got.headers["X-Webhook-Id"] == "evt_1"
    assert got.headers["X-Webhook-Event"] == "cvm.stop.failed"
    assert got.headers["Content-Type"] == "application/json"
    assert got.headers["User-Agent"].startswith("cvmstop-Webhook/")
    assert abs(int(got.headers["X-Webhook-Timestamp"]) - time.time()) < 60
    assert got.is_signed_with(SECRET.get_secret_value())
    assert not got.is_signed_with(new_secret().get_secret_value())


def test_a_redirect_is_not_followed(sender: Sender, receiver: Receiver) -> None:
    with webhook_receiver() as other:
        receiver.status, receiver.headers = 307, {"Location": other.url}
        outcome = sender.send(delivery(receiver.url), SECRET)
        assert other.received == []
    assert (outcome.status, outcome.error) == (307, "HTTP 307: redirects are not followed")


def test_no_proxy_of_the_environment_is_used(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook_receiver() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert sender.send(delivery(receiver.url), SECRET).error is None
        assert proxy.received == []
    assert len(receiver.received) == 1


@pytest.mark.parametrize("address", INSIDE)
def test_a_name_that_points_inside(
    settings: Settings, resolver: list[list[str]], address: str
) -> None:
    """Also one of whose addresses only one does."""
    policy = TargetPolicy(settings)
    for answer in ([address], ["8.8.8.8", address]):
        resolver[:] = [answer]
        with pytest.raises(UnusableUrlError, match="public"):
            policy.check("https://hooks.test/")
        outcome = Sender(policy).send(delivery("https://hooks.test/"), SECRET)
        assert outcome.error == f"not sent to hooks.test:443: {NOT_OUTSIDE}"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "017700000001", "[::ffff:127.0.0.1]", "[::1]"],
)
def test_an_address_that_points_inside_however_it_is_written(settings: Settings, host: str) -> None:
    policy = TargetPolicy(settings)
    with pytest.raises(UnusableUrlError, match="public"):
        policy.check(f"https://{host}/")
    assert NOT_OUTSIDE in str(Sender(policy).send(delivery(f"https://{host}/"), SECRET).error)


def test_a_name_that_is_none_is_told_as_one_that_points_inside(settings: Settings) -> None:
    policy = TargetPolicy(settings)
    told = []
    for host in ("localhost", "a..b", "x" * 64 + ".test"):
        with pytest.raises(UnusableUrlError) as caught:
            policy.check(f"https://{host}/")
        told.append(str(caught.value))
    assert len(set(told)) == 1


class TestRebinding:
    """A name server that says one thing to who checks, and another to who connects."""

    def test_between_registration_and_delivery(
        self, settings: Settings, resolver: list[list[str]], receiver: Receiver
    ) -> None:
        policy = TargetPolicy(settings.model_copy(update={"webhook_allow_http": True}))
        url = receiver.url.replace("127.0.0.1", "hooks.test")
        resolver[:] = [["8.8.8.8"], ["127.0.0.1"]]
        policy.check(url)
        assert NOT_OUTSIDE in str(Sender(policy).send(delivery(url), SECRET).error)
        assert receiver.received == []

    def test_within_a_delivery(
        self, sender: Sender, resolver: list[list[str]], receiver: Receiver
    ) -> None:
        """What was checked is connected to: nobody asks again."""
        resolver[:] = [["127.0.0.1"], ["127.0.0.2"]]
        url = receiver.url.replace("127.0.0.1", "hooks.test")
        assert sender.send(delivery(url), SECRET).error is None
        assert len(receiver.received) == 1
        assert resolver == [["127.0.0.2"]]
        assert receiver.received[0].headers["Host"] == url.split("/")[2]


class TestTls:
    def test_the_name_is_what_the_certificate_must_be_for(
        self, policy: TargetPolicy, resolver: list[list[str]]
    ) -> None:
        resolver[:] = [["127.0.0.1"]]
        authority = trustme.CA()
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        errors = []
        for name, is_good in (("hooks.test", True), ("127.0.0.1", False), ("other.test", False)):
            server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(name).configure_cert(server)
            with webhook_receiver(server) as receiver:
                url = receiver.url.replace("127.0.0.1", "hooks.test")
                outcome = Sender(policy, ssl_context=trusting).send(delivery(url), SECRET)
                assert len(receiver.received) == is_good
                errors.append(str(outcome.error))
        assert errors[0] == "None"
        assert all("certificate is not trusted" in error for error in errors[1:])

    def test_an_authority_that_nobody_knows(self, sender: Sender) -> None:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(server)
        with webhook_receiver(server) as receiver:
            outcome = sender.send(delivery(receiver.url), SECRET)
            assert "certificate is not trusted" in str(outcome.error)
            assert receiver.received == []


def drips(peer: Peer) -> None:
    peer.read_request()
    peer.drip(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000)


def says_nothing(peer: Peer) -> None:
    peer.read_request()
    peer.wait_for_end()


@pytest.mark.parametrize("behave", [drips, says_nothing])
def test_a_whole_try_has_its_time(policy: TargetPolicy, behave: Callable[[Peer], None]) -> None:
    with RawHost(behave) as host:
        outcome = Sender(policy, timeout=0.3).send(delivery(host.address), SECRET)
    assert outcome.status is None
    assert "no whole answer within 0.3 s" in str(outcome.error)


def test_a_success_whose_body_never_ends_is_one(sender: Sender) -> None:
    def behave(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        peer.wait_for_end()

    with RawHost(behave) as host:
        assert sender.send(delivery(host.address), SECRET).error is None


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 500 No\r\n" + b"X: " + b"x" * 40_000 + b"\r\nY: " + b"y" * 40_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 4_000,
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 4_000,
    ],
)
def test_of_a_head_without_end_little_is_read(sender: Sender, head: bytes) -> None:
    def behave(peer: Peer) -> None:
        peer.read_request()
        with suppress(OSError):  # it is not read to its end
            peer.send(head)
        peer.wait_for_end()

    with RawHost(behave) as host:
        outcome = sender.send(delivery(host.address), SECRET)
    assert "the head of its answer is longer than 64 KiB" in str(outcome.error)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (http_answer(b"no such\nhook \x00\x1b[31m", 404), "HTTP 404: no such hook \\x00\\x1b[31m"),
        (http_answer(b"", 500), "HTTP 500"),
        (http_answer(b"x" * 5000, 500), "HTTP 500: " + "x" * 200),
        (b"SSH-2.0-OpenSSH\r\n", "the answer is not HTTP"),
        (b"", "the connection broke"),
    ],
)
def test_answers_that_are_no_success(sender: Sender, answer: bytes, error: str) -> None:
    def behave(peer: Peer) -> None:
        answering(answer)(peer) if answer.startswith(b"HTTP") else say(peer)

    def say(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer)

    with RawHost(behave) as host:
        outcome = sender.send(delivery(host.address), SECRET)
    assert error in str(outcome.error)
    assert len(str(outcome.error)) < 300
    assert str(outcome.error).isprintable()


def test_an_endpoint_that_says_the_secret_back(sender: Sender, receiver: Receiver) -> None:
    receiver.status, receiver.answer = 400, f"got {SECRET.get_secret_value()}".encode()
    outcome = sender.send(delivery(receiver.url), SECRET)
    assert outcome.error == "HTTP 400: got [hidden]"
    assert SECRET.get_secret_value() not in repr(SecretStr(SECRET.get_secret_value()))


def test_nobody_listens(sender: Sender) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x?token=1"
    outcome = sender.send(delivery(url), SECRET)
    assert "Connection refused" in str(outcome.error)
    assert "token" not in str(outcome.error)
