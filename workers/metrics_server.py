"""A worker's metrics on a port of their own. Nothing that goes wrong here ends a worker."""

from __future__ import annotations

import threading
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog

from shared.metrics import CONTENT_TYPE, make_page, may_scrape


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from prometheus_client import CollectorRegistry
    from pydantic import SecretStr

    from shared.settings import Settings

log = structlog.get_logger(__name__)

PATH = "/metrics"

CLIENT_TIMEOUT = 5.0
"""Seconds that a client may be silent; nobody but Prometheus should come."""


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request, so that one that hangs keeps no other from being answered."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Bind without asking the resolver for this machine's name, which may take long."""
        super(WSGIServer, self).server_bind()
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log that a client broke off, in one line."""
        del request
        log.debug("metrics client broke off", client=client_address[0])


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_TIMEOUT

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Log nothing: there is a request every few seconds."""


def serve_metrics(registry: CollectorRegistry, settings: Settings) -> WSGIServer | None:
    """Serve them from a thread while the process lives; None if they are not to be, or cannot.

    A port that is taken is told in the log, and the worker goes on: stops do not depend on it.
    """
    host, port = settings.metrics_host, settings.metrics_port
    if port == 0:
        return None
    if settings.metrics_token is None:
        log.warning("no metrics: CVMSTOP_METRICS_PORT is set, CVMSTOP_METRICS_TOKEN is not")
        return None
    try:
        server = make_server(
            host, port, _page_of(registry, settings.metrics_token), _Server, _Handler
        )
    except OSError as error:
        problem = error.strerror or str(error)
        log.warning("no metrics: the port cannot be had", port=port, error=problem)
        return None
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    log.info("metrics are served", host=host, port=port)
    return server


def _page_of(
    registry: CollectorRegistry, token: SecretStr
) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO") != PATH:
            return _refuse(start, HTTPStatus.NOT_FOUND)
        if environ.get("REQUEST_METHOD") not in {"GET", "HEAD"}:
            return _refuse(start, HTTPStatus.METHOD_NOT_ALLOWED, ("Allow", "GET, HEAD"))
        if not may_scrape(token, environ.get("HTTP_AUTHORIZATION", "")):
            return _refuse(start, HTTPStatus.UNAUTHORIZED, ("WWW-Authenticate", "Bearer"))
        page = make_page(registry)
        start("200 OK", [("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(page)))])
        return [page] if environ["REQUEST_METHOD"] == "GET" else []

    return answer


def _refuse(start: StartResponse, status: HTTPStatus, *headers: tuple[str, str]) -> Iterable[bytes]:
    start(
        f"{status.value} {status.phrase}",
        [("Content-Type", "text/plain"), ("Content-Length", "0"), *headers],
    )
    return []
