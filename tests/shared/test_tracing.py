"""When traces are made, and what that takes when they are not."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from shared.spans import NO_TRACING
from shared.tracing import are_wanted, make_tracing
from tests.support.collector import running_collector


if TYPE_CHECKING:
    from shared.settings import Settings


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("variables", "wanted", "lines"),
    [
        ({}, False, 0),
        (ENDPOINT, True, 0),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True, 0),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False, 0),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True, 0),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False, 0),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "True"}, False, 0),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "false"}, True, 0),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "zipkin"}, False, 1),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False, 1),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True, 0),
        ({"OTEL_SERVICE_NAME": "of-another-program"}, False, 0),
    ],
)
def test_variables(variables: dict[str, str], *, wanted: bool, lines: int) -> None:
    with capture_logs() as logged:
        assert are_wanted(variables) is wanted
    assert len(logged) == lines


def test_a_variable_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    with capture_logs() as logged:
        assert make_tracing("any") is NO_TRACING
    assert [line["event"] for line in logged] == ["no traces: an OTEL_ variable cannot be used"]


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ("Bearer%20a-s3cret", "OTEL_EXPORTER_OTLP_HEADERS: name=value is wanted"),
        ("x-key=a-s3cret%0A1", "header value: '[hidden]'"),
        ("authorization=Bearer%20a-s3cret", "reason: [hidden] is no key"),
    ],
)
def test_headers_are_not_said(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, headers: str, said: str
) -> None:
    """In a process of its own: loggers are the process's."""
    code = (
        "from shared.spans import Kind; from shared.telemetry import configure_logging;"
        " from shared.settings import BrokerSettings; from shared.tracing import make_tracing;"
        " configure_logging(BrokerSettings.load()); tracing = make_tracing('any')\n"
        "with tracing.span('any', Kind.INTERNAL, {}): pass\n"
        "tracing.close()"
    )
    with running_collector() as collector:
        collector.status, collector.reason = 401, "a-s3cret is no key"
        monkeypatch.setenv("CVMSTOP_BROKER_URL", settings.broker_url.get_secret_value())
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", headers)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
    logged = done.stdout + done.stderr
    assert said in logged
    assert "s3cret" not in logged


def test_nothing_is_imported_for_nothing() -> None:
    """redis-py imports the SDK's metrics where they are; what makes and sends spans is ours."""
    programs = "import sys, api.main, api.parts, cli.main, workers.app, workers.parts"
    heavy = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "google.protobuf", "requests")
    found = f"sorted(name for name in sys.modules if name.startswith({heavy}))"
    code = (
        f"{programs}; from shared.tracing import make_tracing; make_tracing('any'); print({found})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
