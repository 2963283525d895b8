"""A batch's events, as the API streams them, over as many connections as it takes.

The format is three lines an event, from one server, so that it is read here: httpx-sse would save
ten of these lines, and neither remembers the last id nor connects again.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from cli.api_client import ApiRequestError


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cli.api_client import ApiClient

LONGEST_SILENCE = 45.0
"""Seconds without a byte after which a connection has broken: three of the API's heartbeats."""

PAUSE = 2.0
"""Seconds until another connection, after one that ended or broke."""


class BatchEvent(NamedTuple):
    """One event."""

    name: str
    """`stop` or `end`."""
    data: dict[str, Any]
    id: str


def follow(client: ApiClient, batch_id: str) -> Iterator[BatchEvent]:
    """Give each event of a batch, once, from its beginning to its `end`.

    Connects again, behind the last event, for as long as the client has patience: it is counted
    from the last time that the API answered.

    Raises
    ------
    ApiRequestError
        The API refused, or did not answer for too long.
    """
    path = f"/api/v1/batches/{quote(batch_id, safe='')}/events"
    headers: dict[str, str] = {}
    answered_at = time.monotonic()
    while True:
        pause = PAUSE
        try:
            with client.stream(path, headers, longest_silence=LONGEST_SILENCE) as answer:
                answered_at = time.monotonic()
                for event in parse(answer.iter_lines()):
                    answered_at = time.monotonic()
                    headers = {"Last-Event-ID": event.id}
                    yield event
                    if event.name == "end":
                        return
        except ApiRequestError as error:
            waited = time.monotonic() - answered_at
            pause = max(pause, error.retry_after)
            if not error.is_passing or waited + pause > client.patience:
                raise
        time.sleep(pause)


def parse(lines: Iterable[str]) -> Iterator[BatchEvent]:
    """Read the lines of a stream; what has no `event`, such as a heartbeat, is left out."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
            continue
        if "event" in fields:
            yield BatchEvent(fields["event"], json.loads(fields["data"]), fields["id"])
        fields = {}
