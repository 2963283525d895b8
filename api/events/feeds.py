"""Every batch that somebody follows on this process, and what keeps them up to date.

PostgreSQL tells of changes (`api.events.listener`). A round every few seconds does the rest: it has
PostgreSQL tell of new batches and not of those that nobody follows any more, finds what PostgreSQL
did not tell of, and whose API key is valid no longer.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID, uuid4

import structlog

from api.events.feed import Feed
from api.events.listener import listen
from api.events.upkeep import WATCH_LIFETIME, Questions, ask
from shared.database import single_statement
from shared.engine import connect_to_listen
from shared.exceptions import DatabaseUnavailableError
from shared.storage.stop_changes import read_history


if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from api.events.stream import EventStream
    from api.events.upkeep import Answers
    from shared.models.batch_history import StopRead
    from shared.settings import DatabaseSettings

log = structlog.get_logger(__name__)

T = TypeVar("T")

THREADS = 2
"""Threads, and so connections of the pool, that all feeds together use at once."""

ROUND_INTERVAL = 5.0
"""Seconds until what PostgreSQL did not tell of is found (decision 0021), or an API key that was
revoked: less than `api.events.stream.HEARTBEAT`."""

LINGER = 30.0
"""Seconds without anybody after which the connection that listens is closed."""

APPLICATION = "api-events"
"""What PostgreSQL shows of the connection that listens, behind `cvmstop-`."""


class BatchFeeds:
    """All feeds of a process. Used in its event loop only; nothing is open before the first feed.

    Parameters
    ----------
    engine
        Gives connections for readings.
    settings
        Those that the engine was made with.
    """

    def __init__(self, engine: Engine, settings: DatabaseSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._watcher = uuid4()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="events")
        self._feeds: dict[UUID, Feed] = {}
        self._left: set[UUID] = set()
        """Batches that PostgreSQL still tells of, for nobody."""
        self._wake = asyncio.Event()
        self._rounds: asyncio.Task[None] | None = None
        self._is_ending = False
        self._is_answered = True
        """Whether the database answered the last round."""

    @property
    def readers(self) -> int:
        """How many streams are open, or about to be."""
        return sum(feed.opening + len(feed.streams) for feed in self._feeds.values())

    async def open(self, batch_id: UUID) -> Feed:
        """Give the feed of a batch that there is, read at least once. Its `opening` counts this.

        Raises
        ------
        DatabaseUnavailableError
            It could not be read.
        """
        feed = self._feeds.get(batch_id)
        if feed is None:
            feed = self._feeds[batch_id] = Feed(batch_id, self._read)
        feed.opening += 1
        try:
            await feed.load()
        except BaseException:
            self.leave(feed)
            raise
        if not feed.is_over:
            self._wake.set()
            if self._rounds is None:
                # Of no request: what it logs is not about this one.
                self._rounds = asyncio.create_task(self._keep_up(), context=Context())
        return feed

    def join(self, stream: EventStream) -> None:
        """Count a stream among those of its feed, which was opened for it."""
        stream.feed.opening -= 1
        stream.feed.streams.add(stream)
        stream.is_ended = self._is_ending

    def leave(self, feed: Feed, stream: EventStream | None = None) -> None:
        """Count it no more; without a stream, whom the feed was opened for."""
        if stream is None:
            feed.opening -= 1
        else:
            feed.streams.discard(stream)
        # Others are kept until the next round: who is cut off often comes back.
        if feed.is_over or not feed.history.counts:
            self._drop_unused(feed)
            self._wake.set()

    def end_streams(self) -> None:
        """End every stream, and those to come: the process is about to end."""
        self._is_ending = True
        for feed in self._feeds.values():
            for stream in feed.streams:
                stream.is_ended = True
            feed.tell()

    async def close(self) -> None:
        """Close what is open. PostgreSQL is told, if it answers, that nobody listens."""
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.wait([self._rounds])
        for feed in self._feeds.values():
            feed.close()
        watched = [*self._left, *(feed.batch_id for feed in self._feeds.values())]
        if watched and self._is_answered:
            with suppress(DatabaseUnavailableError):  # they expire
                await self._ask(Questions(unwatch=watched))
        self._threads.shutdown()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _read(self, batch_id: UUID) -> list[StopRead]:
        def read() -> list[StopRead]:
            with single_statement(self._engine) as connection:
                return read_history(connection, batch_id)

        return await self._in_thread(read)

    async def _ask(self, questions: Questions) -> Answers:
        return await self._in_thread(partial(ask, self._engine, self._watcher, questions))

    def _drop_unused(self, feed: Feed) -> None:
        if not feed.is_used and self._feeds.get(feed.batch_id) is feed:
            del self._feeds[feed.batch_id]
            feed.close()
            if feed.watched_until:
                self._left.add(feed.batch_id)

    async def _keep_up(self) -> None:
        """Do round after round until nobody has followed anything for a while."""
        listening = asyncio.create_task(
            listen(
                partial(connect_to_listen, self._engine, self._settings, application=APPLICATION),
                timeout=self._settings.database_timeout + 1,
                told=self._refresh_one,
                listening=self._refresh_all,
            )
        )
        clock = asyncio.get_running_loop().time
        used_at = look_at = clock()
        try:
            # Who came since the last round has not been counted into `used_at`.
            while self._feeds or self._left or clock() < used_at + LINGER:
                self._wake.clear()
                is_look_due = clock() >= look_at
                self._is_answered = await self._do_round(look=is_look_due)
                if is_look_due:
                    look_at = clock() + ROUND_INTERVAL
                if self._feeds:
                    used_at = clock()
                with suppress(TimeoutError):
                    async with asyncio.timeout(ROUND_INTERVAL):
                        await self._wake.wait()
        finally:
            self._rounds = None
            listening.cancel()
            await asyncio.wait([listening])

    async def _do_round(self, *, look: bool) -> bool:
        """Ask the database, and do what follows from it; False if it did not answer.

        Parameters
        ----------
        look
            Look for what was not told of, too, and at the API keys.
        """
        for feed in list(self._feeds.values()):
            self._drop_unused(feed)
        until = asyncio.get_running_loop().time() + WATCH_LIFETIME
        due = [feed for feed in self._feeds.values() if feed.is_watch_due(until)]
        looked_at = list(self._feeds.values()) if look else []
        left = self._left - self._feeds.keys()
        questions = Questions(
            watch=[feed.batch_id for feed in due],
            unwatch=list(left),
            count=[feed.batch_id for feed in looked_at],
            keys=list({key for feed in looked_at for key in feed.api_keys()}),
            sessions=list({each for feed in looked_at for each in feed.page_sessions()}),
        )
        try:
            answers = await self._ask(questions)
        except DatabaseUnavailableError as error:
            log.warning("batches are not watched", error=error.for_operators())
            return False
        except Exception:
            log.exception("batches are not watched")  # the next round may do it
            return False
        self._left -= left
        for feed in due:
            feed.note_watched(until)
            if self._feeds.get(feed.batch_id) is not feed:
                self._left.add(feed.batch_id)
        for feed in looked_at:
            feed.note_changes(answers.changes.get(feed.batch_id, 0))
            feed.end_streams_but(answers.callers, among=questions.keys)
            feed.end_sessions_but(answers.sessions, among=questions.sessions)
            feed.tell()
        return True

    def _refresh_one(self, batch_id: UUID) -> None:
        if feed := self._feeds.get(batch_id):
            feed.refresh()

    def _refresh_all(self) -> None:
        for feed in self._feeds.values():
            feed.refresh()
