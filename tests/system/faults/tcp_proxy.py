"""A TCP proxy that can be told to misbehave while connections run through it.

Toxiproxy would do this; it is a Go program that neither PyPI nor Debian 13 offers, and what is
wanted of it is small.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from cli.stack.ports import ADDRESS, choose_ports


if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

CHUNK = 65_536
"""Bytes that are passed on at once."""

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of 0 s: closing sends a reset and forgets what was not sent. Source: socket(7)."""


class TcpProxy:
    """Passes connections on to a port of this machine; a context manager that ends it.

    Its own thread does the work; every method may be called from any other.

    Parameters
    ----------
    target
        The port to pass on to.
    """

    def __init__(self, target: int) -> None:
        self.port = choose_ports(1)[0]
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._passing = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._delay = 0.0
        self._answer_bytes: int | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._passing.set()
        self._do(self._listen())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def well(self) -> None:
        """Pass everything on again; what was swallowed meanwhile arrives now."""
        self._do(self._well())

    def refuse(self) -> None:
        """Refuse connections, and break those that there are."""
        self._do(self._refuse())

    def swallow(self) -> None:
        """Take everything and pass nothing on, in both directions, as a network that is cut."""
        self._loop.call_soon_threadsafe(self._passing.clear)

    def cut(self) -> None:
        """Break every connection that there is; new ones are well."""
        self._do(self._cut())

    def cut_answers(self, after: int) -> None:
        """Break every connection after so many bytes of its next answers."""
        self._answer_bytes = after

    def delay(self, seconds: float) -> None:
        """Pass on later."""
        self._delay = seconds

    def _do(self, what: object) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)  # type: ignore[arg-type]  # each is a coroutine

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, ADDRESS, self.port)

    async def _well(self) -> None:
        self._passing.set()
        self._delay, self._answer_bytes = 0.0, None
        await self._listen()

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    async def _cut(self) -> None:
        for writer in list(self._writers):
            self._reset(writer)

    async def _close(self) -> None:
        await self._refuse()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._connect_and_pass_on(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # nobody listens there (any more), or the proxy ends
        finally:
            self._reset(writer)
            self._tasks.discard(task)

    async def _connect_and_pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        to_reader, to_writer = await asyncio.open_connection(ADDRESS, self._target)
        self._writers.add(to_writer)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_on(reader, to_writer, is_answer=False))
                both.create_task(self._pass_on(to_reader, writer, is_answer=True))
        finally:
            self._reset(to_writer)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        left: int | None = None
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                if not self._passing.is_set():
                    await self._passing.wait()
                    if reader.at_eof():
                        return  # who sent it has gone meanwhile; a cut network loses it
                if self._delay:
                    await asyncio.sleep(self._delay)
                if is_answer and self._answer_bytes is not None:
                    left = (self._answer_bytes if left is None else left) - len(data)
                    data = data[: max(len(data) + left, 0)] if left < 0 else data
                writer.write(data)
                await writer.drain()
                if left is not None and left < 0:
                    self._reset(writer)
                    return
            if writer.can_write_eof():
                writer.write_eof()

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        """Close a connection the hard way; one that has ended already ends no further."""
        self._writers.discard(writer)
        found: socket.socket | None = writer.get_extra_info("socket")
        with suppress(OSError):
            if found is not None and found.fileno() >= 0:
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()
