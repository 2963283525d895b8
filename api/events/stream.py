"""One reader: the answer to a request for a batch's events, as long as it goes on."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event


if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import Receive, Scope, Send

    from api.events.feed import Feed
    from shared.models.batch_history import Follower
    from shared.models.callers import Caller

HEARTBEAT = 15.0
"""Seconds of silence after which a comment is sent.

Proxies close what was silent for 60 s (nginx's `proxy_read_timeout`, AWS' load balancers), some
after 30. Source: HTML standard, 9.2.7 "Authoring notes" of server-sent events, says about 15 s.
"""

RETRY = 2_000
"""Milliseconds that a reader is told to wait before it connects again."""

AT_ONCE = 64
"""Events that are sent together: some 25 KB."""

HEADERS = {
    "Cache-Control": "no-store",
    # nginx would keep the events until it has a buffer full. Source: ngx_http_proxy_module.
    "X-Accel-Buffering": "no",
}


class EventStream(StreamingResponse):
    """Sends a feed from a position on, until it ends, the reader goes, or it may no longer.

    It takes no more from the feed while the reader does not read, and nothing is kept for it; the
    server cuts it off then (`api.server.BoundedProtocol`).

    Parameters
    ----------
    feed
        One that was read.
    follower
        Where it goes on.
    caller
        Whom it is for.
    page_session
        Digest of the session of the page that it was opened in, and ends with; None for an API's.
    release
        Called once it has ended, however that was.
    """

    # Not an `EventSourceResponse`: FastAPI makes that from a generator, which can answer nothing
    # but 200, and encodes each event anew for each reader.
    media_type = EventSourceResponse.media_type

    def __init__(
        self,
        feed: Feed,
        follower: Follower,
        caller: Caller,
        page_session: bytes | None,
        release: Callable[[EventStream], None],
    ) -> None:
        super().__init__(self._chunks(), headers=HEADERS)
        self.feed = feed
        self.caller = caller
        self.page_session = page_session
        self.is_ended = False
        """Whoever sets it tells the feed: the stream then ends, without an `end`."""
        self._follower = follower
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release(self)

    async def _chunks(self) -> AsyncIterator[bytes]:
        clock = asyncio.get_running_loop().time
        yield format_sse_event(retry=RETRY)
        # Not all of those together who came together.
        beat_at = clock() + HEARTBEAT * random.uniform(0.5, 1)  # noqa: S311 - nobody guesses at it
        while not self.is_ended:
            news = self.feed.news
            if found := self._follower.take(AT_ONCE):
                yield b"".join(self.feed.frame(*each) for each in found)
                beat_at = clock() + HEARTBEAT
                continue
            if (position := self._follower.at_end) is not None:
                yield self.feed.end_frame(str(position))
                return
            if self.feed.is_gone:
                return
            try:
                async with asyncio.timeout_at(beat_at):
                    await news.wait()
            except TimeoutError:
                yield KEEPALIVE_COMMENT
                beat_at = clock() + HEARTBEAT
