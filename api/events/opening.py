"""Answering a request for a batch's events, whoever authenticated it: the API or its page."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from fastapi import Response
from starlette.concurrency import run_in_threadpool

from api.events.stream import EventStream
from shared.database import transaction
from shared.exceptions import TooManyStreamsError
from shared.models.batch_history import Follower, Position
from shared.services.stop_access import require_batch


if TYPE_CHECKING:
    from uuid import UUID

    from fastapi import Request

    from api.parts import ApiParts
    from shared.models.callers import Caller


async def open_stream(
    request: Request,
    parts: ApiParts,
    caller: Caller,
    batch_id: UUID,
    last_event_id: str | None,
    *,
    page_session: bytes | None = None,
) -> Response:
    """Give the stream of a batch's events, or 204 to who was told its end already.

    Parameters
    ----------
    request
        Its body is read and thrown away: nobody else does, while the stream goes on.
    caller
        Whom the API key was found to belong to. The stream ends when the key is valid no longer.
    last_event_id
        The header `Last-Event-ID`: the stream goes on behind that event.
    page_session
        Digest of the session of the page that it is for: the stream ends with that, too.

    Raises
    ------
    NotFoundError
        There is no batch of that id that the caller may see.
    InvalidPositionError
        The last event's id is none of the batch's.
    TooManyStreamsError
        As many are open as may be.
    DatabaseUnavailableError
        The database does not answer.
    """
    await request.body()
    await run_in_threadpool(_require, parts, caller, batch_id)
    feeds, limit = parts.feeds, parts.settings.max_event_streams
    if feeds.readers >= limit:
        msg = f"this process has {limit} streams of events open; try again soon"
        raise TooManyStreamsError(msg)
    feed = await feeds.open(batch_id)
    try:
        position = None
        if last_event_id:
            position = Position.parse(last_event_id, stops=feed.history.stops)
    except BaseException:
        feeds.leave(feed)
        raise
    if position is not None and position.has_ended and feed.is_over:
        feeds.leave(feed)
        return Response(status_code=204)
    follower = Follower(feed.history, position)
    stream = EventStream(feed, follower, caller, page_session, partial(_release, parts))
    feeds.join(stream)
    parts.metrics.event_streams.inc()
    return stream


def _require(parts: ApiParts, caller: Caller, batch_id: UUID) -> None:
    with transaction(parts.engine) as session:
        require_batch(session, caller, batch_id)


def _release(parts: ApiParts, stream: EventStream) -> None:
    parts.feeds.leave(stream.feed, stream)
    parts.metrics.event_streams.dec()
