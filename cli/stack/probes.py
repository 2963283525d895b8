"""Cheap questions whether a process is ready; each gives an answer within half a second."""

from __future__ import annotations

import http.client
import socket
from typing import TYPE_CHECKING

from cli.stack.ports import ADDRESS


if TYPE_CHECKING:
    from celery import Celery

TIMEOUT = 0.5
"""Longest wait for one network step, in seconds."""

PING_TIMEOUT = 0.2
"""Longest wait for a Celery node's answer, in seconds: it answers in milliseconds or not at all."""


def accepts_tcp(port: int) -> bool:
    """Whether somebody listens on a port."""
    try:
        socket.create_connection((ADDRESS, port), timeout=TIMEOUT).close()
    except OSError:
        return False
    return True


def answers_http(port: int, path: str) -> bool:
    """Whether `GET path` is answered with 200."""
    connection = http.client.HTTPConnection(ADDRESS, port, timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def answers_ping(app: Celery, node: str) -> bool:
    """Whether a Celery node answers: it is connected and takes tasks."""
    from kombu.exceptions import KombuError
    from redis.exceptions import RedisError

    try:
        return bool(app.control.ping(destination=[node], timeout=PING_TIMEOUT))
    except (KombuError, RedisError, OSError):
        return False
