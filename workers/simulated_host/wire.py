"""dstack-vmm's HTTP side: `/prpc/<Method>`, by GET and POST, JSON in and out.

Only JSON is understood; a protobuf request gets a protobuf error that says so. Methods that are
not simulated are answered like unknown ones. Source of the rules: dstack `vmm/src/main.rs`,
`ra-rpc/src/rocket_helper.rs` and `ra-rpc/src/lib.rs`.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from typing import TYPE_CHECKING

from workers.simulated_host.answers import (
    HTML,
    OCTETS,
    Answer,
    Headers,
    send_answer,
    send_broken,
    until_disconnected,
)
from workers.simulated_host.auth import CHALLENGE
from workers.simulated_host.behaviour import Fault, FaultKind
from workers.simulated_host.methods import Outcome, RpcError, carry_out
from workers.simulated_host.requests import BODY_LIMIT, MOUNT, RpcRequest, parse_query, read_rpc


if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from workers.simulated_host.host import Host
    from workers.simulated_host.journal import Entry

_HTTP_METHODS = frozenset({"GET", "POST"})

GARBAGE = b"\x00\xffthis is no JSON <"
"""Body of a `garbage` fault that brings no text of its own."""


class Wire:
    """The ASGI application of one host, without the control endpoint."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        host = self._host
        http_method, path = scope["method"], scope["path"]
        name = path.removeprefix(MOUNT)
        headers = dict(scope["headers"])
        query_string = scope["query_string"]
        allowed = host.behaviour.is_before_0_6 or host.credentials.accept(
            http_method, headers, parse_query(query_string)
        )
        if (
            not path.startswith(MOUNT)
            or "/" in name
            or not name
            or http_method not in _HTTP_METHODS
        ):
            if host.behaviour.dead:
                await until_disconnected(receive)
                return
            answer = self._not_found() if allowed else self._unauthorized()
            await send_answer(answer, send)
            return
        body = await _read_body(receive)
        if body is None:
            return
        request = read_rpc(
            http_method=http_method,
            method=name,
            query_string=query_string,
            content_type=headers.get(b"content-type", b""),
            body=body,
        )
        entry = host.journal.open(request.method, request.vm_id, credentials_ok=allowed)
        counting = host.counting_stops() if request.method == "StopVm" else nullcontext()
        try:
            with counting:
                await self._serve(request, entry, scope, receive, send)
        finally:
            host.journal.decide(entry)

    async def _serve(
        self, request: RpcRequest, entry: Entry, scope: Scope, receive: Receive, send: Send
    ) -> None:
        host = self._host
        if host.behaviour.dead:
            entry.fault = "dead"
            host.journal.decide(entry)
            await until_disconnected(receive)
            return
        resident = host.find(request.vm_id)
        if wait := host.latency(resident):
            await asyncio.sleep(wait)
        fault = host.draw_fault(request.method, resident) if entry.credentials_ok else None
        answer = await self._answer(request, fault, entry)
        if fault is None:
            await send_answer(answer, send)
        else:
            await send_broken(answer, fault, scope, receive, send)

    async def _answer(self, request: RpcRequest, fault: Fault | None, entry: Entry) -> Answer:
        """Carry a request out, unless something is in the way, and write down what became of it."""
        answer = self._unauthorized()
        blocks = 0.0
        if entry.credentials_ok and (fault is None or fault.carries_out):
            answer, blocks = self._carry_out(request, entry)
        if fault is not None:
            entry.fault = fault.kind.value
            answer = self._spoil(answer, fault, request, entry)
        silent = fault is not None and fault.kind in {FaultKind.HANG, FaultKind.RESET}
        entry.status = None if silent else answer.status
        self._host.journal.decide(entry)
        if blocks:
            await asyncio.sleep(blocks)
        return answer

    def _carry_out(self, request: RpcRequest, entry: Entry) -> tuple[Answer, float]:
        outcome = Outcome()
        problem = request.problem
        if request.arguments is not None:
            try:
                outcome = carry_out(self._host, request.method, request.arguments)
            except RpcError as error:
                problem = str(error)
        entry.killed = outcome.killed
        entry.reported = outcome.reported
        if problem is not None:
            return self._error(problem, request, entry), 0.0
        body = json.dumps(outcome.payload, separators=(",", ":")).encode()
        return Answer(status=200, body=body, headers=self._headers()), outcome.blocks

    def _spoil(self, answer: Answer, fault: Fault, request: RpcRequest, entry: Entry) -> Answer:
        """Replace the answer where the fault is in what it says, not in how it is sent."""
        match fault.kind:
            case FaultKind.ERROR:
                return self._error(fault.text or "simulated failure", request, entry)
            case FaultKind.HTTP:
                page = fault.text or f"<html><body><h1>{fault.status}</h1></body></html>"
                body = b"" if fault.status in {204, 304} else page.encode()
                return Answer(status=fault.status, body=body, content_type=HTML)
            case FaultKind.GARBAGE:
                body = GARBAGE if fault.text is None else fault.text.encode()
                return Answer(status=200, body=body, headers=self._headers())
            case FaultKind.HUGE:
                return Answer(status=200, body=b"", headers=self._headers())
            case FaultKind.UNAUTHORIZED:
                return self._unauthorized()
            case FaultKind.HANG | FaultKind.RESET | FaultKind.CUT | FaultKind.DRIP:
                return answer

    def _error(self, text: str, request: RpcRequest, entry: Entry) -> Answer:
        entry.error = text
        if request.is_json:
            body = json.dumps({"error": text}, indent=2, ensure_ascii=False).encode()
            return Answer(status=400, body=body, headers=self._headers())
        return Answer(
            status=400,
            body=_as_prpc_error(text),
            content_type=OCTETS,
            headers=self._headers(),
        )

    def _unauthorized(self) -> Answer:
        headers = (*self._headers(), (b"www-authenticate", CHALLENGE))
        return Answer(status=401, body=b"", content_type=HTML, headers=headers)

    def _not_found(self) -> Answer:
        return Answer(
            status=404, body=b"<h1>404: Not Found</h1>", content_type=HTML, headers=self._headers()
        )

    def _headers(self) -> Headers:
        how = self._host.behaviour
        version = f"v{how.version} ({how.revision})".encode()
        return ((b"x-app-version", version), (b"x-accel-buffering", b"no"))


async def _read_body(receive: Receive) -> bytes | None:
    """Read the body, and stop where it is longer than it may be.

    None when the client has gone before the end: part of a request is none.
    """
    chunks = bytearray()
    while len(chunks) <= BODY_LIMIT:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return bytes(chunks)


def _as_prpc_error(text: str) -> bytes:
    """Encode `PrpcError{message=1}`: tag, length as a varint, text."""
    message = text.encode()
    length = len(message)
    varint = bytearray()
    while length > 0x7F:
        varint.append(length & 0x7F | 0x80)
        length >>= 7
    varint.append(length)
    return b"\x0a" + bytes(varint) + message
