"""A reader of a batch's events, which can be cut off and go on elsewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PATIENCE = 60.0
"""Seconds without a byte after which the test has failed: four heartbeats."""


class Event(NamedTuple):
    """One event as it came."""

    name: str
    data: dict[str, Any]
    id: str


def parse_events(lines: Iterable[str]) -> Iterator[Event]:
    """Read events from a stream's lines; comments are left out, as is what was cut off."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif not line:
            if "event" in fields:
                yield Event(fields["event"], json.loads(fields["data"]), fields["id"])
            fields = {}


@dataclass
class EventReader:
    """Follows one batch, over any number of connections; remembers what came, and from where."""

    key: str
    batch_id: str
    events: list[Event] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    """Of each connection's answer."""

    @property
    def steps(self) -> list[tuple[str, str, int, str | None]]:
        """What came of stops: id, state, attempt, error code."""
        return [
            (data["stop_task_id"], data["state"], data["attempt"], data["error_code"])
            for name, data, _ in self.events
            if name == "stop"
        ]

    @property
    def ended(self) -> bool:
        """Whether it was told the end."""
        return bool(self.events) and self.events[-1].name == "end"

    def follow(self, api_url: str, *, most: int | None = None) -> bool:
        """Connect, behind the last event; read until the stream ends, or that many events came.

        Gives whether the stream ended by itself.
        """
        headers = {"X-API-Key": self.key}
        if self.events:
            headers["Last-Event-ID"] = self.events[-1].id
        url = f"{api_url}/api/v1/batches/{self.batch_id}/events"
        with httpx.stream("GET", url, headers=headers, timeout=PATIENCE) as answer:
            self.statuses.append(answer.status_code)
            for number, event in enumerate(parse_events(answer.iter_lines()), 1):
                self.events.append(event)
                if number == most:
                    return False
        return True
