"""What the metrics of all processes have in common: registry, messages, page, token.

Each process counts what it does itself, in a registry of its own; nothing is shared or global.
docs/decisions/0020-metrics.md says what is counted where.
"""

from __future__ import annotations

import secrets
from enum import StrEnum
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from shared import __version__


if TYPE_CHECKING:
    from pydantic import SecretStr

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""Prometheus' text format, which every version of it takes."""

BEARER = "bearer "
"""Start of the `Authorization` header that Prometheus sends; its case does not matter."""


class SendReason(StrEnum):
    """Why a worker was sent a message about a stop."""

    ACCEPTED = "accepted"
    """The API has just accepted it."""
    WOKEN = "woken"
    """A turn ended, and left it a place on its host."""
    DUE = "due"
    """The dispatcher found it due: a retry, a confirmation, or a message that nobody took."""
    AGAIN = "again"
    """The dispatcher found it sent and not claimed within `CVMSTOP_RESEND_AFTER`: a re-send."""


def new_registry() -> CollectorRegistry:
    """Make a process's registry; it has the process's own memory, CPU time and open files."""
    # They would double the counters' series, and nothing here asks when one began.
    disable_created_metrics()  # type: ignore[no-untyped-call] # it carries no types
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    Info("cvmstop_build", "The version that runs.", registry=registry).info(
        {"version": __version__}
    )
    return registry


class MessageCounts:
    """Counts messages about stops, as their senders see them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._sent = Counter(
            "cvmstop_stop_messages_sent",
            "Messages about stops that the broker took. Reason `again` are re-sends.",
            ["reason"],
            registry=registry,
        )
        self._refused = Counter(
            "cvmstop_stop_messages_refused",
            "Messages about stops that the broker did not take; the dispatcher sends them later.",
            ["reason"],
            registry=registry,
        )
        for reason in SendReason:  # from 0, so that the first one is an increase
            self._sent.labels(reason)
            self._refused.labels(reason)

    def note_sent(self, reason: SendReason, count: int) -> None:
        """Count messages that the broker took."""
        self._sent.labels(reason).inc(count)

    def note_refused(self, reason: SendReason, count: int) -> None:
        """Count messages that the broker did not take, as far as is known."""
        self._refused.labels(reason).inc(count)


def make_page(registry: CollectorRegistry) -> bytes:
    """Give the page that is scraped, as `CONTENT_TYPE` says."""
    return generate_latest(registry)


def may_scrape(token: SecretStr, authorization: str) -> bool:
    """Whether an `Authorization` header has the token; takes as long for any wrong one."""
    if authorization[: len(BEARER)].lower() != BEARER:
        return False
    presented = authorization[len(BEARER) :].strip()
    return secrets.compare_digest(presented.encode(), token.get_secret_value().encode())
