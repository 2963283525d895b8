"""What is logged, in a process of its own: logging is set up once for a whole process."""

from __future__ import annotations

import subprocess
import sys

import pytest


PROGRAM = """
import structlog
from pydantic import SecretStr
from shared.settings import BrokerSettings
from shared.telemetry import configure_logging

configure_logging(BrokerSettings(broker_url=SecretStr("redis://h/0"), log_format="{log_format}"))
headers = "hunter2"
try:
    1 / 0
except ZeroDivisionError as error:
    structlog.get_logger("cvmstop").error("it broke", exc_info=error, request_id="from-afar")
"""
"""A local variable holds a secret when something breaks."""


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_shows_no_values(log_format: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(log_format=log_format)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "it broke" in done.stderr
    assert "from-afar" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert "hunter2" not in done.stderr
