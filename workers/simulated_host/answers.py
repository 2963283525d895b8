"""How an answer goes over the wire, whole or broken. No knowledge of VMs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from workers.simulated_host.behaviour import Fault, FaultKind


if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

JSON = b"application/json"
OCTETS = b"application/octet-stream"
HTML = b"text/html; charset=utf-8"

HUGE_CHUNK = b" " * 65_536
"""Filling of a huge body; spaces, which JSON allows before a value."""

TRANSPORT = "transport"
"""Where the server leaves the connection's transport, in `scope["state"]`."""

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One whole answer."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: Headers = ()


async def send_answer(answer: Answer, send: Send) -> None:
    """Send an answer as it should be."""
    await _begin(answer, len(answer.body), send)
    await send({"type": "http.response.body", "body": answer.body})


async def send_broken(
    answer: Answer, fault: Fault, scope: Scope, receive: Receive, send: Send
) -> None:
    """Send an answer as a fault has it.

    Parameters
    ----------
    answer
        What would have been answered.
    fault
        Of a kind that strikes the answer on its way; `HANG` sends nothing of it.
    scope, receive, send
        The request's.
    """
    match fault.kind:
        case FaultKind.HANG:
            await until_disconnected(receive)
        case FaultKind.RESET:
            transport_of(scope).abort()
            await until_disconnected(receive)
        case FaultKind.CUT:
            body = answer.body or b" "
            await _begin(answer, len(body) + 1, send)
            part = body[: (len(body) + 1) // 2]
            await send({"type": "http.response.body", "body": part, "more_body": True})
            transport_of(scope).close()
            await until_disconnected(receive)
        case FaultKind.DRIP:
            await _drip(answer, fault, receive, send)
        case FaultKind.HUGE:
            await _begin(answer, fault.size, send)
            left = fault.size
            while left:
                part = HUGE_CHUNK[:left]
                left -= len(part)
                await send({"type": "http.response.body", "body": part, "more_body": left > 0})
        case _:
            await send_answer(answer, send)


async def _begin(answer: Answer, length: int, send: Send) -> None:
    headers = [
        (b"content-type", answer.content_type),
        (b"content-length", b"%d" % length),
        *answer.headers,
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})


async def _drip(answer: Answer, fault: Fault, receive: Receive, send: Send) -> None:
    body = answer.body.rjust(fault.size)
    await _begin(answer, len(body), send)
    for place in range(len(body)):
        more = place + 1 < len(body)
        part = body[place : place + 1]
        await send({"type": "http.response.body", "body": part, "more_body": more})
        if more and await _disconnected_within(fault.interval, receive):
            return


async def until_disconnected(receive: Receive) -> None:
    """Wait until the client has gone, however long it takes."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _disconnected_within(seconds: float, receive: Receive) -> bool:
    try:
        await asyncio.wait_for(until_disconnected(receive), seconds)
    except TimeoutError:
        return False
    return True


def transport_of(scope: Scope) -> asyncio.Transport:
    """Give the connection under a request."""
    return cast("asyncio.Transport", scope["state"][TRANSPORT])
