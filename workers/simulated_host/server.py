"""Runs a simulated host on TCP, TLS or a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from workers.simulated_host.answers import TRANSPORT
from workers.simulated_host.control import PREFIX, build_control
from workers.simulated_host.wire import Wire


if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from starlette.types import ASGIApp, Receive, Scope, Send

    from workers.simulated_host.host import Host


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a host listens."""

    address: str = "127.0.0.1"
    port: int = 0
    """0 for a free one."""
    unix: Path | None = None
    """Path of a Unix socket, instead of address and port."""
    tls_cert: Path | None = None
    """PEM file with the certificate chain; TLS when set."""
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    """PEM file; when set, clients must show a certificate of this authority."""


class HostServer(uvicorn.Server):
    """One host's server. Creating it binds the socket, so that `url` is known before it runs.

    Parameters
    ----------
    host
        What it serves.
    endpoint
        Where.
    on_ready
        Called once, when the host listens.

    Raises
    ------
    OSError
        The address is in use, or a file cannot be read.
    ssl.SSLError
        A certificate or key is no good.
    """

    def __init__(
        self, host: Host, endpoint: Endpoint, on_ready: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(
            uvicorn.Config(
                build_app(host),
                http=_Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=0,
                ssl_certfile=endpoint.tls_cert,
                ssl_keyfile=endpoint.tls_key,
                ssl_ca_certs=endpoint.tls_client_ca,
                ssl_cert_reqs=ssl.CERT_REQUIRED if endpoint.tls_client_ca else ssl.CERT_NONE,
            )
        )
        self.config.load()
        self._unix = endpoint.unix
        self._socket = _bind(endpoint)
        self._on_ready = on_ready
        self.url = self._url(endpoint)

    def serve_until_told(self) -> None:
        """Serve until `should_exit` is set, SIGINT or SIGTERM; cut whatever is under way then."""
        try:
            self.run(sockets=[self._socket])
        finally:
            self.close()

    def close(self) -> None:
        """Give the address back; for a server that never ran. One that ran does it by itself."""
        self._socket.close()
        if self._unix is not None:
            self._unix.unlink(missing_ok=True)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """End on a signal. Unlike uvicorn, do not raise it again: what called us tidies up."""
        self.should_exit = True

    def _url(self, endpoint: Endpoint) -> str:
        if endpoint.unix is not None:
            return f"unix:{endpoint.unix}"
        address, port = self._socket.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        return f"{'https' if endpoint.tls_cert else 'http'}://{shown}:{port}"


class _Protocol(H11Protocol):
    """HTTP/1.1 whose requests can reach their connection, and which ends without waiting."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn's own
        super().connection_made(transport)
        self.app_state = {**self.app_state, TRANSPORT: transport}

    def shutdown(self) -> None:
        # Before the first request there is no cycle, whatever its annotation says.
        if getattr(self.cycle, "response_complete", True):
            super().shutdown()
        else:
            self.transport.abort()


def build_app(host: Host) -> ASGIApp:
    """Put the host's wire and its control endpoint side by side."""
    wire, control = Wire(host), build_control(host)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (control if scope["path"].startswith(PREFIX) else wire)(scope, receive, send)

    return app


def _bind(endpoint: Endpoint) -> socket.socket:
    if endpoint.unix is not None:
        bound = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(endpoint.unix.lstat().st_mode):
                endpoint.unix.unlink()  # left over from a host that was killed
        target: str | tuple[str, int] = str(endpoint.unix)
    else:
        family = socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET
        # With the protocol spelled out asyncio sets TCP_NODELAY; without it answers take 40 ms.
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        target = (endpoint.address, endpoint.port)
    try:
        bound.bind(target)
    except OSError:
        bound.close()
        raise
    return bound
