"""One batch that is followed: what happened to it, read once for all who follow it here."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING

import structlog
from fastapi.sse import format_sse_event

from api.events.schemas import EndEvent, stop_event
from api.events.upkeep import WATCH_LIFETIME
from shared.exceptions import DatabaseUnavailableError
from shared.models.batch_history import BatchHistory


if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence
    from uuid import UUID

    from api.events.stream import EventStream
    from shared.models.batch_history import StopRead
    from shared.models.callers import Caller

log = structlog.get_logger(__name__)

READ_INTERVAL = 0.1
"""Seconds between two readings of a batch: what it is told meanwhile becomes one reading.

A person sees no difference, and a batch of 50 has some hundred changes.
"""


class Feed:
    """One batch's history, which grows, and everybody who reads along.

    Parameters
    ----------
    batch_id
        A batch that there is.
    read
        Reads its stops, in a thread; raises `DatabaseUnavailableError`.
    """

    def __init__(
        self, batch_id: UUID, read: Callable[[UUID], Awaitable[Sequence[StopRead]]]
    ) -> None:
        self.batch_id = batch_id
        self.history = BatchHistory()
        self.streams: set[EventStream] = set()
        self.opening = 0
        """Those who are about to read along."""
        self.news = asyncio.Event()
        """Set, and replaced by another one, when there is something new of any kind."""
        self.watched_until = 0.0
        """Until when PostgreSQL tells of it, by the loop's clock; 0 while it does not."""
        self.is_gone = False
        """The batch was deleted."""
        self._frames: list[bytes] = []
        self._read = read
        self._wanted = False
        self._reading: asyncio.Task[None] | None = None
        self._problem: Exception | None = None
        """Why the last reading failed."""

    @property
    def is_used(self) -> bool:
        """Whether anybody reads along, or is about to."""
        return bool(self.streams) or self.opening > 0

    @property
    def is_over(self) -> bool:
        """Whether nothing will be new any more."""
        return self.is_gone or self.history.is_over

    def refresh(self) -> None:
        """Have the batch read; once more if that is being done, since it may be too late for it."""
        if self.is_over:
            return
        self._wanted = True
        if self._reading is None:
            # Of no request: what it logs is not about the one that came first.
            self._reading = asyncio.create_task(self._read_while_wanted(), context=Context())

    async def load(self) -> None:
        """Wait until it was read for the first time.

        Raises
        ------
        DatabaseUnavailableError
            It could not be.
        """
        while not (self.history.counts or self.is_gone):
            news = self.news
            self.refresh()
            await news.wait()
            if self._problem is not None:
                raise self._problem

    def close(self) -> None:
        """Read no more."""
        if self._reading is not None:
            self._reading.cancel()

    def tell(self) -> None:
        """Wake everybody who reads along."""
        self.news.set()
        self.news = asyncio.Event()

    def api_keys(self) -> set[UUID]:
        """Give the ids of the API keys of everybody who reads along."""
        return {stream.caller.api_key_id for stream in self.streams}

    def page_sessions(self) -> set[bytes]:
        """Give the digests of the sessions of everybody who reads along in a page."""
        return {stream.page_session for stream in self.streams if stream.page_session is not None}

    def is_watch_due(self, until: float) -> bool:
        """Whether PostgreSQL is to be asked to tell of it until then."""
        return not self.is_over and self.watched_until < until - WATCH_LIFETIME / 2

    def note_watched(self, until: float) -> None:
        """Know that PostgreSQL tells of it now."""
        if not self.watched_until:
            self.refresh()  # what changed before was told to nobody
        self.watched_until = until

    def note_changes(self, count: int) -> None:
        """Know how many changes are written, and read those that were not told of."""
        if self._problem is not None or count != self.history.changes:
            self.refresh()

    def end_streams_but(self, callers: Collection[Caller], *, among: Collection[UUID]) -> None:
        """End the streams of those API keys that were asked about and are none of a caller's.

        They see it when the feed tells.
        """
        for stream in self.streams:
            if stream.caller.api_key_id in among and stream.caller not in callers:
                stream.is_ended = True

    def end_sessions_but(self, sessions: Collection[bytes], *, among: Collection[bytes]) -> None:
        """End the streams of those sessions that were asked about and are none of the open ones."""
        for stream in self.streams:
            if stream.page_session in among and stream.page_session not in sessions:
                stream.is_ended = True

    def frame(self, number: int, position: str) -> bytes:
        """Give a step of the history as an event, for a reader who then is at a position."""
        step = self.history.steps[number]
        if position == step.position:
            return self._frames[number]
        return self._format(number, position)

    def end_frame(self, position: str) -> bytes:
        """Give the event that ends the stream."""
        event = EndEvent(batch_id=self.batch_id, counts=self.history.counts)
        return format_sse_event(event="end", data_str=event.model_dump_json(), id=position)

    def _format(self, number: int, position: str) -> bytes:
        event = stop_event(self.history.steps[number])
        return format_sse_event(event="stop", data_str=event.model_dump_json(), id=position)

    async def _read_while_wanted(self) -> None:
        try:
            while self._wanted and not self.is_over:
                self._wanted = False
                self._take(await self._read(self.batch_id))
                self._problem = None
                self.tell()
                await asyncio.sleep(READ_INTERVAL)
        except DatabaseUnavailableError as error:
            log.warning("batch not read", batch_id=str(self.batch_id), error=error.for_operators())
            self._fail(error)
        except Exception as error:
            log.exception("batch not read", batch_id=str(self.batch_id))
            self._fail(error)
        finally:
            self._reading = None

    def _fail(self, error: Exception) -> None:
        self._problem = error
        self.tell()

    def _take(self, stops: Sequence[StopRead]) -> None:
        if self.history.counts and len(stops) != self.history.stops:
            self.is_gone = True
            return
        self.history.take(stops)
        for number in range(len(self._frames), len(self.history.steps)):
            self._frames.append(self._format(number, self.history.steps[number].position))
