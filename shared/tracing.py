"""Whether a process makes OpenTelemetry traces: the standard `OTEL_…` variables say so.

Nothing of OpenTelemetry is imported otherwise. docs/decisions/0025-traces.md has the reasons.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import structlog

from shared.spans import NO_TRACING


if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.spans import Tracing

log = structlog.get_logger(__name__)

EXPORTER = "OTEL_TRACES_EXPORTER"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
"""The more particular one counts. Source: OpenTelemetry's specification, "OTLP Exporter"."""

PROTOCOL = "http/protobuf"
"""The one that is spoken here, and OpenTelemetry's default."""


def make_tracing(service: str) -> Tracing:
    """Begin to make traces, if the environment says so; call it in the process that makes them.

    Whatever is wrong with those variables is a line in the log: no stop is to wait for a trace.

    Parameters
    ----------
    service
        What this process is, unless `OTEL_SERVICE_NAME` says something else.
    """
    if not are_wanted(os.environ):
        return NO_TRACING
    try:
        from shared.otel import OpenTelemetry  # noqa: PLC0415 - 30 MB that most processes do not need

        return OpenTelemetry(service)
    except Exception as error:  # noqa: BLE001 - of the SDK's own reading of its many variables
        log.warning("no traces: an OTEL_ variable cannot be used", error=type(error).__name__)
        return NO_TRACING


def are_wanted(environment: Mapping[str, str]) -> bool:
    """Say whether variables ask for traces; tells in the log what they ask for in vain."""

    def value(*names: str) -> str:
        found = (environment.get(name, "").strip() for name in names)
        return next((each for each in found if each), "")

    if value("OTEL_SDK_DISABLED").lower() == "true":
        return False
    exporter = value(EXPORTER).lower() or ("otlp" if value(*ENDPOINTS) else "none")
    if exporter == "none":
        return False
    if exporter != "otlp":
        log.warning("no traces: OTEL_TRACES_EXPORTER may be otlp or none")
        return False
    if value(*PROTOCOLS).lower() not in {"", PROTOCOL}:
        log.warning("no traces: OTEL_EXPORTER_OTLP_PROTOCOL may be http/protobuf (port 4318)")
        return False
    return True
