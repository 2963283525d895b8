"""A collector of traces: takes OTLP over HTTP, and keeps the spans."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.proto.common.v1.common_pb2 import KeyValue


@dataclass(frozen=True, kw_only=True)
class TakenSpan:
    """A span as it arrived; ids are hex texts, as in a `traceparent`."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, str | int]
    is_error: bool
    message: str
    began: int
    ended: int

    @property
    def error_type(self) -> str | int | None:
        return self.attributes.get("error.type")


class Collector:
    """What came in so far. `status` is what it answers, and `reason` what it says to that."""

    def __init__(self) -> None:
        self.spans: list[TakenSpan] = []
        self.status = 200
        self.reason: str | None = None
        self.url = ""
        self.raw = b""

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        self.raw += body
        for resource in request.resource_spans:
            service = str(_plain(resource.resource.attributes)["service.name"])
            for scope in resource.scope_spans:
                self.spans += [_taken(service, span) for span in scope.spans]

    def of_trace(self, trace_id: str) -> list[TakenSpan]:
        return [span for span in list(self.spans) if span.trace_id == trace_id]


def _taken(service: str, span: Span) -> TakenSpan:
    return TakenSpan(
        service=service,
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=_plain(span.attributes),
        is_error=span.status.code == Status.STATUS_CODE_ERROR,
        message=span.status.message,
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
    )


def _plain(attributes: Any) -> dict[str, str | int]:
    def value(pair: KeyValue) -> Any:
        return getattr(pair.value, pair.value.WhichOneof("value") or "string_value")

    return {pair.key: value(pair) for pair in attributes}


@contextmanager
def running_collector() -> Iterator[Collector]:
    """Run one on a port of 127.0.0.1; it ends with the block."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces" and collector.status == 200:
                collector.take(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(collector.status, collector.reason)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
