"""The API on a real port, in a thread of the test's process."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from tests.support.waiting import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI


@contextmanager
def served_api(app: FastAPI) -> Iterator[str]:
    """Serve the API and give its base URL."""
    config = uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="served-api")
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), what="the API listens")
        assert thread.is_alive(), "the API did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
