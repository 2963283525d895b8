"""What a process tells of its work as spans, whoever takes them; here nobody does.

`shared.tracing` says when somebody does. Names of spans and attributes are OpenTelemetry's semantic
conventions (https://opentelemetry.io/docs/specs/semconv/), `cvmstop.…` where they have none.
"""

from __future__ import annotations

from contextlib import nullcontext
from enum import Enum
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

Attributes = dict[str, str | int]
"""What is told of a span. Never a secret: nothing is hidden on the way."""


class Kind(Enum):
    """Which side of what a span is, by OpenTelemetry's names."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"
    PRODUCER = "producer"
    CONSUMER = "consumer"


class Span:
    """Something that goes on; this one is told nothing."""

    def rename(self, name: str) -> None:
        """Give it another name, as more is known."""

    def tell(self, attributes: Attributes) -> None:
        """Add attributes."""

    def fail(self, error_type: str, message: str | None = None) -> None:
        """Say that it went wrong.

        Parameters
        ----------
        error_type
            One of few: an error code, a status, the name of an exception.
        message
            For people.
        """


class Tracing:
    """Makes the spans of one process; this one makes none, and costs nothing."""

    is_on = False

    def span(
        self,
        name: str,
        kind: Kind,
        attributes: Attributes,
        *,
        parent: Mapping[str, str] | None = None,
        began: int | None = None,
    ) -> AbstractContextManager[Span]:
        """Make the block a span; an exception that leaves it is its failure.

        Parameters
        ----------
        name
            One of few: never with an id in it.
        kind
            Which side of what it is.
        attributes
            What is known of it at its beginning.
        parent
            `traceparent`, and `tracestate` if there is one (W3C Trace Context): what it belongs to.
            What is no traceparent begins a trace, and so does an empty mapping. None for a part of
            the span around it.
        began
            `time.time_ns()` of its beginning, if that was before now.
        """
        del name, kind, attributes, parent, began
        return nullcontext(NO_SPAN)

    def note(
        self,
        name: str,
        kind: Kind,
        attributes: Attributes,
        *,
        seconds: float,
        error_type: str | None = None,
    ) -> None:
        """Tell of a part of the span around it that has just ended, and took so long."""

    def traceparent(self) -> str | None:
        """Give what a later span needs to belong to the one around it; None if there is none."""
        return None

    def close(self) -> None:
        """Send what waits to be sent, for a moment; nothing is told afterwards."""


NO_SPAN = Span()
NO_TRACING = Tracing()
