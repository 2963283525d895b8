"""Bounded HTTP to one dstack-vmm: its pRPC calls, each over by a deadline and of bounded size."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpcore

from shared.models.errors import ErrorCode
from workers.drivers.bounded_network import CURRENT_BUDGET, BoundedBackend, Budget
from workers.drivers.errors import OutOfTimeError
from workers.drivers.network_failures import FAILURES, explain


if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from workers.drivers.address import HostAddress

MAX_CONNECTIONS = 256
"""Connections to one host at once; far above any sensible cap, which is what bounds stops."""

KEEP_ALIVE = 4.0
"""Seconds that an idle connection is kept. Rocket, dstack-vmm's web server, closes idle ones
after 5 s (Rocket configuration, `keep_alive`); ours must go first, or a StopVm may be lost."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a host answered."""

    status: int
    body: bytes
    is_whole: bool
    """False if the body was longer than wanted, and the rest was left unread."""


class Transport:
    """Connections to one host, used by many threads at once.

    Parameters
    ----------
    address
        Where the host listens.
    authorization
        Value of the `Authorization` header, sent with every request; None for none.
    ssl_context
        For `https`.
    connect_timeout
        Longest wait for a connection in seconds: name lookup, TCP and TLS together.
    """

    def __init__(
        self,
        address: HostAddress,
        *,
        authorization: str | None,
        ssl_context: ssl.SSLContext | None,
        connect_timeout: float,
    ) -> None:
        self._address = address
        self._connect_timeout = connect_timeout
        self._headers = [
            ("Host", address.host_header),
            ("User-Agent", "cvmstop"),
            ("Accept-Encoding", "identity"),
            ("Content-Type", "application/json"),
        ]
        if authorization is not None:
            self._headers.append(("Authorization", authorization))
        self._ssl_context = ssl_context
        self._backend = BoundedBackend()
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context,
            max_connections=MAX_CONNECTIONS,
            keepalive_expiry=KEEP_ALIVE,
            uds=address.unix_path,
            network_backend=self._backend,
        )
        self._lock = threading.Lock()
        self._in_use = 0
        self._closed = False

    def post(
        self, method: str, content: bytes, *, deadline: float, max_bytes: int, fresh: bool = False
    ) -> Answer:
        """Call one pRPC method, and give whatever HTTP answer comes. Redirects are not followed.

        Always a POST: dstack-vmm takes a GET for a call too, and one that changes things.

        Parameters
        ----------
        method
            Such as `StopVm`; the path is `/prpc/<method>?json` (dstack `vmm/src/main.rs`).
        content
            The request's body, JSON.
        deadline
            `time.monotonic()` by which the exchange ends: connection, headers and body together.
        max_bytes
            Longest body that is read.
        fresh
            Use a new connection, and do not keep it.

        Raises
        ------
        HostUnreachableError
            No connection; nothing was sent.
        OutcomeUnknownError
            Sent, and no whole answer came.
        StaleConnectionError
            The same, on a kept connection that broke before any of the answer came.
        OutOfTimeError
            The deadline passed before a connection was tried; nothing was sent.
        HostRefusedError
            `bad_answer`: what came is not HTTP.
        """
        what = f"{method} at {self._address.text}"
        started = time.monotonic()
        if started >= deadline:
            msg = f"{what}: not sent, the time for this turn was over"
            raise OutOfTimeError(ErrorCode.HOST_TIMEOUT, msg)
        budget = Budget(deadline=deadline, connect_timeout=self._connect_timeout)
        token = CURRENT_BUDGET.set(budget)
        try:
            with self._opener(fresh=fresh) as opener:
                return self._exchange(opener, method, content, max_bytes, deadline - started)
        except FAILURES as error:
            raise explain(what, error, budget, time.monotonic() - started) from None
        finally:
            CURRENT_BUDGET.reset(token)

    def close(self) -> None:
        """Close kept connections; those in use when their request ends."""
        with self._lock:
            self._closed = True
            if self._in_use == 0:
                self._pool.close()

    @contextlib.contextmanager
    def _opener(
        self, *, fresh: bool
    ) -> Iterator[httpcore.ConnectionPool | httpcore.HTTPConnection]:
        if fresh:
            with httpcore.HTTPConnection(
                self._origin(),
                ssl_context=self._ssl_context,
                uds=self._address.unix_path,
                network_backend=self._backend,
            ) as connection:
                yield connection
            return
        with self._lock:
            self._in_use += 1
        try:
            yield self._pool
        finally:
            with self._lock:
                self._in_use -= 1
                if self._closed and self._in_use == 0:
                    self._pool.close()

    def _exchange(
        self,
        opener: httpcore.ConnectionPool | httpcore.HTTPConnection,
        method: str,
        content: bytes,
        max_bytes: int,
        seconds: float,
    ) -> Answer:
        url = httpcore.URL(
            scheme=self._address.scheme,
            host=self._address.host,
            port=self._address.port,
            target=f"{self._address.prefix}/prpc/{method}?json",
        )
        headers = [*self._headers, ("Content-Length", str(len(content)))]
        extensions = {"timeout": {"pool": seconds}}  # the budget bounds everything else
        with opener.stream(
            "POST", url, headers=headers, content=content, extensions=extensions
        ) as response:
            body = bytearray()
            for chunk in response.iter_stream():
                body += chunk
                if len(body) > max_bytes:
                    break
        return Answer(
            status=response.status,
            body=bytes(body[:max_bytes]),
            is_whole=len(body) <= max_bytes,
        )

    def _origin(self) -> httpcore.Origin:
        address = self._address
        return httpcore.Origin(address.scheme.encode(), address.host.encode(), address.port)
