"""One try to deliver an event: over within its time, and never to an address inside."""

from __future__ import annotations

import ssl
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from shared import __version__
from shared.exceptions import UnusableUrlError
from shared.models.webhooks import SEND_TIMEOUT, sign
from shared.storage.webhook_deliveries import Outcome
from workers.drivers.address import HostAddress
from workers.drivers.bounded_network import AnswerTooLongError, Budget, Incoming, connect
from workers.drivers.network_failures import FAILURES, explain
from workers.drivers.transcript import Transcriber
from workers.drivers.transport import begin_answer


if TYPE_CHECKING:
    from http.client import HTTPResponse

    from pydantic import SecretStr

    from shared.models.webhook_urls import WebhookUrl
    from shared.services.webhook_targets import TargetPolicy
    from shared.storage.webhook_deliveries import ClaimedDelivery

USER_AGENT = f"cvmstop-Webhook/{__version__}"

ANSWER_BYTES = 2_000
"""Bytes that are read of an answer that is no success; of a success none are."""

HEAD_BYTES = 65_536
"""Bytes of an answer that are read at most, interim ones before it included: those who answer are
strangers, and 32 lanes with heads as long as `http.client` takes them held 700 MB."""

ANSWER_LENGTH = 200
"""Characters that are kept of them."""


class Sender:
    """Sends deliveries; used by many threads at once.

    Each over a connection of its own, straight to the address that was checked: no proxy from the
    environment, no redirect, no second look-up.

    Parameters
    ----------
    policy
        Says where deliveries may go.
    ssl_context
        Whom to trust; the system's authorities when not given.
    timeout
        Seconds for a whole try.
    """

    def __init__(
        self,
        policy: TargetPolicy,
        *,
        ssl_context: ssl.SSLContext | None = None,
        timeout: float = SEND_TIMEOUT,
    ) -> None:
        self._policy = policy
        self._ssl_context = ssl_context or _trusting_the_system()
        self._timeout = timeout

    def send(self, delivery: ClaimedDelivery, secret: SecretStr) -> Outcome:
        """Send a delivery, signed now, and say how its endpoint took it. Raises nothing."""
        try:
            url = self._policy.parse(delivery.url)
        except UnusableUrlError as error:
            return Outcome(status=None, error=str(error))
        started = time.monotonic()
        budget = Budget(deadline=started + self._timeout, connect_timeout=self._timeout)
        try:
            return self._exchange(url, _request(url, delivery, secret), budget, secret)
        except UnusableUrlError as error:
            return Outcome(status=None, error=f"not sent to {url.place}: {error}")
        except AnswerTooLongError:
            too_long = f"POST to {url.place}: the head of its answer is longer than 64 KiB"
            return Outcome(status=None, error=too_long)
        except FAILURES as error:
            failure = explain(f"POST to {url.place}", error, budget, time.monotonic() - started)
            return Outcome(status=None, error=failure.message)

    def _exchange(
        self, url: WebhookUrl, request: bytes, budget: Budget, secret: SecretStr
    ) -> Outcome:
        address = HostAddress(text=url.place, scheme=url.scheme, host=url.host, port=url.port)
        context = self._ssl_context if url.scheme == "https" else None
        connection = connect(address, context, budget, find=self._policy.find)
        try:
            connection.send(request, budget)
            response = begin_answer(Incoming(connection, budget, most=HEAD_BYTES), budget)
            return _judge(response, Transcriber([secret.get_secret_value()]))
        finally:
            connection.close()


def _trusting_the_system() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _request(url: WebhookUrl, delivery: ClaimedDelivery, secret: SecretStr) -> bytes:
    timestamp = int(time.time())
    body = delivery.body.encode()
    headers = {
        "Host": url.host_header,
        "User-Agent": USER_AGENT,
        "Accept-Encoding": "identity",
        "Connection": "close",
        "Content-Type": "application/json",
        "Content-Length": len(body),
        "X-Webhook-Id": delivery.event_id,
        "X-Webhook-Event": delivery.event,
        "X-Webhook-Timestamp": timestamp,
        "X-Webhook-Signature": sign(secret, timestamp, delivery.body),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {url.target} HTTP/1.1\r\n{head}\r\n".encode("ascii") + body


def _judge(response: HTTPResponse, transcriber: Transcriber) -> Outcome:
    """Take 2xx for success, and whatever else for none: a redirect too is not followed."""
    status = response.status
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return Outcome(status=status, error=None)
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return Outcome(status=status, error=f"HTTP {status}: redirects are not followed")
    try:
        shown = transcriber.show(response.read1(ANSWER_BYTES))[:ANSWER_LENGTH]
    except FAILURES:
        shown = ""
    return Outcome(status=status, error=f"HTTP {status}: {shown}".rstrip(": "))
