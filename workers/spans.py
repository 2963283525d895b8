"""A turn as spans: the task, each exchange with the host, how it was settled."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shared.broker import STOPS_QUEUE
from shared.database import single_statement
from shared.spans import NO_SPAN, Kind
from shared.storage.traces import find_origin


if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from uuid import UUID

    from shared.models.hosts import SealedHost
    from shared.models.turns import Exchange, TurnResult
    from shared.services.stops import Settled
    from shared.spans import Attributes, Span, Tracing
    from workers.parts import WorkerParts

RPC_SYSTEMS = {"dstack": "prpc"}
"""What a driver's calls are, where that is not the driver's own name."""


def task_span(parts: WorkerParts, stop_task_id: UUID) -> AbstractContextManager[Span]:
    """Make a turn a span of the trace of the request that has asked for the stop.

    Whoever sent the message, and whichever turn it is: it is the row that knows the trace.

    Raises
    ------
    DatabaseUnavailableError
        As the claim would.
    """
    if not parts.tracing.is_on:
        return nullcontext(NO_SPAN)
    began = time.time_ns()
    attributes: Attributes = {
        "messaging.system": "celery",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": STOPS_QUEUE,
        "messaging.message.id": str(stop_task_id),
        "cvmstop.stop_task.id": str(stop_task_id),
    }
    with single_statement(parts.engine) as connection:
        origin = find_origin(connection, stop_task_id)
    parent = {}
    if origin is not None:
        attributes["cvmstop.cvm.id"] = origin.cvm_id
        attributes["cvmstop.request.id"] = origin.request_id
        if origin.traceparent is not None:
            parent["traceparent"] = origin.traceparent
    return parts.tracing.span(
        f"process {STOPS_QUEUE}", Kind.CONSUMER, attributes, parent=parent, began=began
    )


def exchange_teller(tracing: Tracing, host: SealedHost) -> Callable[[Exchange], None] | None:
    """Give what makes a span of each exchange with a host; None without traces."""
    if not tracing.is_on:
        return None
    attributes: Attributes = {
        "rpc.system.name": RPC_SYSTEMS.get(host.driver, host.driver),
        "cvmstop.host.name": host.name,
        **_server(host.address),
    }

    def tell(exchange: Exchange) -> None:
        method = exchange.request.partition(" ")[0]
        tracing.note(
            method,
            Kind.CLIENT,
            {**attributes, "rpc.method": method},
            seconds=exchange.seconds,
            error_type=exchange.error,
        )

    return tell


def _server(address: str) -> Attributes:
    """Say where a host listens. Of a URL nothing else is told: it may have a user's name."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return {}
    found: Attributes = {"server.address": parts.hostname} if parts.hostname else {}
    return found if port is None else {**found, "server.port": port}


def tell_end(task: Span, settling: Span, settled: Settled | None, result: TurnResult) -> None:
    """Tell what a turn ended in: an error if it ended with one, also if it is tried again."""
    if settled is None:
        settling.fail("stale", "another worker has the stop")
        return
    ends: Attributes = {"cvmstop.stop_task.state": settled.state}
    settling.tell({**ends, "cvmstop.attempt.outcome": settled.outcome})
    task.tell(ends)
    if result.failure is not None:
        task.fail(result.failure.code, result.failure.message)
