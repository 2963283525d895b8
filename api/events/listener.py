"""The one connection of a process on which PostgreSQL tells of changes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from shared.tables.stop_changes import CHANNEL


if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import psycopg

log = structlog.get_logger(__name__)

RECONNECT_INTERVAL = 1.0
"""Seconds between two tries: PostgreSQL restarts in about one."""


async def listen(
    connect: Callable[[], Awaitable[psycopg.AsyncConnection[Any]]],
    *,
    timeout: float,  # noqa: ASYNC109 - for each connection, not for all of it
    told: Callable[[UUID], None],
    listening: Callable[[], None],
) -> None:
    """Listen until the task is canceled, on one connection after the other.

    Parameters
    ----------
    connect
        Opens one, in autocommit.
    timeout
        Seconds until a connection has to listen.
    told
        Called with the id of a batch of which something has changed.
    listening
        Called when a connection has begun to listen: what was told before that was not heard.
    """
    while True:
        try:
            async with asyncio.timeout(timeout):
                connection = await connect()
            try:
                async with asyncio.timeout(timeout):
                    await connection.execute(f"LISTEN {CHANNEL}")
                listening()
                async for notify in connection.notifies():
                    with suppress(ValueError):  # anybody can say anything there
                        told(UUID(notify.payload))
            finally:
                await connection.close()
        except Exception as error:  # noqa: BLE001 - whatever it is, another connection may do
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            log.warning("no connection that listens; trying again", error=reason)
        await asyncio.sleep(RECONNECT_INTERVAL)
