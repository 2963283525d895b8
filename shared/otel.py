"""Spans by the OpenTelemetry SDK, sent by OTLP over HTTP from a thread of their own.

Imported only where they are wanted (`shared.tracing`). The SDK reads the standard variables itself:
endpoint, headers, TLS, sampler, sizes of queue and batch, resource.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared import __version__
from shared.spans import Kind, Span, Tracing


if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from shared.spans import Attributes

log = structlog.get_logger(__name__)

CLOSE_PATIENCE = 2.0
"""Seconds that a process which ends gives its last spans: of what its turns left it."""

EXPORTER_LOGGER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
"""Where the SDK's exporter says why it was refused."""

HEADER_LOGGER = "opentelemetry.util.re"
"""Where the SDK repeats headers that it cannot read."""

HEADERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
"""What is sent along with spans: mostly a key."""

HIDDEN = "[hidden]"
"""Stands where the value of one stood."""

SECRET_PARTS = re.compile(r"(?<=//)[^/@\s]*@|(?<=\?)\S+")
"""Where a URL may have secrets: name and password, and the query."""

LONGEST_REASON = 300
"""Characters of it that are logged."""


class OpenTelemetry(Tracing):
    """Makes spans, and sends them without anybody waiting.

    Parameters
    ----------
    service
        What this process is, unless the environment says something else.
    """

    is_on = True

    def __init__(self, service: str) -> None:
        named = OTELResourceDetector().detect().attributes
        ours = {"service.name": service, "service.version": __version__}
        ours |= {"service.instance.id": f"{os.uname().nodename}:{os.getpid()}"}
        resource = Resource.create({name: ours[name] for name in ours if name not in named})
        logging.getLogger(HEADER_LOGGER).addFilter(without_headers)  # once, however often
        # Ended by `close`, which has a bound; the SDK's own would wait for half a minute.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(QuietExporter(OTLPSpanExporter())))
        self._tracer = self._provider.get_tracer("cvmstop", __version__)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(
        self,
        name: str,
        kind: Kind,
        attributes: Attributes,
        *,
        parent: Mapping[str, str] | None = None,
        began: int | None = None,
    ) -> Iterator[Span]:
        """Make the block a span; the lines that are logged in it have its ids."""
        context = None if parent is None else self._propagator.extract(parent, Context())
        with self._tracer.start_as_current_span(
            name,
            context,
            SpanKind[kind.name],
            attributes,
            start_time=began,
            # It would have the traceback, and of some the values that went into it.
            record_exception=False,
            set_status_on_exception=False,
        ) as made:
            ids = made.get_span_context()
            span = OpenTelemetrySpan(made)
            with structlog.contextvars.bound_contextvars(
                trace_id=trace.format_trace_id(ids.trace_id),
                span_id=trace.format_span_id(ids.span_id),
            ):
                try:
                    yield span
                except Exception as error:
                    span.fail(type(error).__name__)
                    raise

    def note(
        self,
        name: str,
        kind: Kind,
        attributes: Attributes,
        *,
        seconds: float,
        error_type: str | None = None,
    ) -> None:
        """Tell of what has just ended."""
        ended = time.time_ns()
        made = self._tracer.start_span(
            name,
            kind=SpanKind[kind.name],
            attributes=attributes,
            start_time=ended - round(seconds * 1e9),
        )
        if error_type is not None:
            OpenTelemetrySpan(made).fail(error_type)
        made.end(ended)

    def traceparent(self) -> str | None:
        """Give the `traceparent` of the span around it."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier.get("traceparent")

    def close(self) -> None:
        """Send what waits, for `CLOSE_PATIENCE` at most."""
        # In a thread that the process's end does not wait for: a collector may hang.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_PATIENCE)


class OpenTelemetrySpan(Span):
    """One of the SDK's."""

    def __init__(self, made: trace.Span) -> None:
        self._made = made

    def rename(self, name: str) -> None:
        """Give it another name."""
        self._made.update_name(name)

    def tell(self, attributes: Attributes) -> None:
        """Add attributes."""
        self._made.set_attributes(attributes)

    def fail(self, error_type: str, message: str | None = None) -> None:
        """Say that it went wrong."""
        self._made.set_attribute("error.type", error_type)
        self._made.set_status(Status(StatusCode.ERROR, message))


class QuietExporter(SpanExporter):
    """An exporter that says once that nobody takes its spans, and once that they are taken again.

    What is not taken is dropped; the SDK's queue, of 2,048 spans unless told otherwise, is all that
    is kept meanwhile.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._reason = FirstWords(header_values(os.environ))
        self._is_taken = True
        # Otherwise the SDK logs each batch that is refused, and each time that its queue is full.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        said = logging.getLogger(EXPORTER_LOGGER)
        said.setLevel(logging.WARNING)
        said.propagate = False
        said.handlers = [self._reason]

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send some spans."""
        self._reason.text = ""
        result = self._exporter.export(spans)
        is_taken = result is SpanExportResult.SUCCESS
        if is_taken != self._is_taken:
            self._is_taken = is_taken
            if is_taken:
                log.info("the collector takes spans again")
            else:
                log.warning(
                    "the collector does not take spans: they are dropped until it does",
                    reason=self._reason.text,
                )
        return result

    def shutdown(self) -> None:
        """End, and what is being tried with it."""
        self._exporter.shutdown()


class FirstWords(logging.Handler):
    """Keeps what is said first: why; that it was given up comes last.

    Parameters
    ----------
    secrets
        What must not be kept: the longest first, as one may be part of another.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__()
        self.text = ""
        self._secrets = secrets

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line of it, without what a URL may have, and without what was sent."""
        line = record.getMessage().partition("\n")[0]
        for secret in self._secrets:
            line = line.replace(secret, HIDDEN)
        self.text = self.text or SECRET_PARTS.sub("", line)[:LONGEST_REASON]


def header_values(environment: Mapping[str, str]) -> list[str]:
    """Give the values of headers in every form that a message may show them in, longest first."""
    found: set[str] = set()
    for part in _header_parts(environment):
        value = (part.partition("=")[2] or part).strip()
        plain = unquote(value)
        # Of "Bearer …" the second word alone is a secret as well.
        found.update((value, plain, repr(plain)[1:-1], plain.rpartition(" ")[2]))
    return sorted(found - {""}, key=len, reverse=True)


def _header_parts(environment: Mapping[str, str]) -> list[str]:
    parts = ",".join(environment.get(name, "") for name in HEADERS).split(",")
    return [part for part in parts if part.strip()]


def without_headers(record: logging.LogRecord) -> bool:
    """Say that headers cannot be read, and not what they are."""
    record.msg = f"{HEADERS[0]}: name=value is wanted, comma separated, values URL encoded"
    record.args = ()
    return True
