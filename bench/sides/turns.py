"""cvmstop's own turns behind another library's queue: only what carries the messages differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.broker import Broker
from shared.settings import Settings
from shared.telemetry import configure_logging
from workers.parts import WorkerParts, make_worker_parts


if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shared.models.turns import DueStop

WORKER = "bench"
"""Name of the worker that stays with the attempts."""


class OtherBroker(Broker):
    """Sends by another library.

    Parameters
    ----------
    send
        Sends stops; called by the threads that take turns.
    """

    def __init__(self, send: Callable[[Sequence[DueStop]], None]) -> None:
        self._send = send

    def send_stops(self, stops: Sequence[DueStop]) -> None:
        """Send a message for each stop."""
        if stops:
            self._send(stops)


def make_parts(send: Callable[[Sequence[DueStop]], None]) -> WorkerParts:
    """Wire a worker process together as cvmstop's own, but for what sends."""
    settings = Settings.load()
    configure_logging(settings)
    return make_worker_parts(OtherBroker(send), settings)
