"""Calls to one libvirt daemon: each ends in time, and what came of it is written down."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, TypeVar

from shared.models.errors import ErrorCode
from shared.models.turns import Exchange
from workers.drivers.errors import (
    HostError,
    HostSilentError,
    HostUnreachableError,
    OutcomeUnknownError,
    OutOfTimeError,
)
from workers.drivers.libvirt import failures
from workers.drivers.libvirt.calls import Call, Threads
from workers.drivers.libvirt.connections import ConnectingHangsError
from workers.drivers.libvirt.library import LibraryError


if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.drivers.libvirt.connections import LibvirtConnections
    from workers.drivers.libvirt.library import LibvirtLibrary
    from workers.drivers.protocol import CallBounds
    from workers.drivers.transcript import Transcriber

Value = TypeVar("Value")

MOST_GIVEN_UP = 16
"""Calls on one host that were given up and hang still; with so many the host is not asked.

Twice the usual cap: a daemon that falls silent in the middle of work leaves one for each stop.
"""


NEARLY = 0.9
"""Share of the time to connect from which on a connection has had it: threads wake up late."""


class NoDomainError(Exception):
    """The host does not know the domain."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class BoundedCalls:
    """Makes calls on borrowed connections, in threads that can be given up.

    Parameters
    ----------
    name, address
        The host's, for messages.
    library, connections
        What the calls go through.
    transcriber
        Cleans texts of secrets.
    connect_timeout
        Longest wait for a connection, in seconds.
    most_given_up
        Calls that were given up and hang still, at most.
    """

    def __init__(
        self,
        name: str,
        address: str,
        library: LibvirtLibrary,
        connections: LibvirtConnections,
        transcriber: Transcriber,
        *,
        connect_timeout: float,
        most_given_up: int = MOST_GIVEN_UP,
    ) -> None:
        self._address = address
        self._library = library
        self._connections = connections
        self._threads = Threads(name, most_given_up)
        self._transcriber = transcriber
        self._connect_timeout = connect_timeout

    @property
    def hanging(self) -> int:
        """How many calls were given up and hang still."""
        return self._threads.given_up

    def make(
        self,
        method: str,
        request: dict[str, str],
        work: Callable[[Any, Call], Value],
        show: Callable[[Value], str],
        bounds: CallBounds,
        *,
        timeout: float,
    ) -> Value:
        """Make one call, write down what came of it, and give the answer.

        Parameters
        ----------
        work
            Gets a connection and the call; runs in a thread of its own, and may hang there.
        show
            Makes the text of an answer that is kept.
        timeout
            Seconds, within the bounds.
        """
        what = f"{method} at {self._address}"
        started = time.monotonic()
        deadline = min(bounds.deadline, started + timeout)
        if deadline <= started:
            msg = f"{what}: not sent, the turn's time was over"
            raise OutOfTimeError(ErrorCode.HOST_TIMEOUT, msg)

        def record(answer: str, error: str | None = None) -> None:
            text = f"{method} {json.dumps(request)}"
            seconds = time.monotonic() - started
            bounds.record(Exchange(request=text, answer=answer, seconds=seconds, error=error))

        try:
            value = self._wait_for(what, work, deadline)
        except NoDomainError as error:
            record(error.text)
            raise
        except HostError as error:
            record(error.message, error.code)
            raise
        record(self._transcriber.clean(show(value)))
        return value

    def _wait_for(self, what: str, work: Callable[[Any, Call], Value], deadline: float) -> Value:
        if self._connections.hangs:
            raise self._hangs(what)
        if self._threads.is_stuck:
            msg = f"{what}: not sent, {self._threads.given_up} calls to the host hang already"
            raise HostUnreachableError(ErrorCode.HOST_TIMEOUT, msg)
        started = time.monotonic()
        call = Call()
        self._threads.start(call, lambda: self._work_on(what, call, work))
        outcome = call.wait(deadline, self._connect_timeout)
        if outcome is None:
            seconds = time.monotonic() - started
            if call.sent:
                msg = f"{what}: no answer within {seconds:.1f} s"
                raise OutcomeUnknownError(ErrorCode.HOST_TIMEOUT, msg)
            if call.seconds_of_connecting >= NEARLY * min(self._connect_timeout, seconds):
                msg = f"{what}: no connection within {call.seconds_of_connecting:.1f} s"
                raise HostUnreachableError(ErrorCode.HOST_UNREACHABLE, msg)
            if not call.has_connection:
                # Others had them all, or were making theirs: nothing is learnt of the host.
                msg = f"{what}: not sent, no connection became free within {seconds:.1f} s"
                raise OutOfTimeError(ErrorCode.HOST_TIMEOUT, msg)
            msg = f"{what}: no answer within {seconds:.1f} s"
            raise HostSilentError(ErrorCode.HOST_TIMEOUT, msg)
        if outcome.error is not None:
            raise outcome.error
        value: Value = outcome.value
        return value

    def _work_on(self, what: str, call: Call, work: Callable[[Any, Call], Value]) -> Value:
        """Do a call's work on a connection; in its thread. What leaves it holds no connection."""
        while True:
            try:
                connection, was_kept = self._connections.take(call)
                call.got_connection()
            except LibraryError as error:
                text = self._transcriber.clean(error.message)
                raise failures.explain_open(what, error, text) from None
            except ConnectingHangsError:
                raise self._hangs(what) from None
            try:
                return work(connection, call)
            except self._library.error as error:
                plain = self._library.plain(error)
                text = self._transcriber.clean(plain.message)
                lost = not self._library.is_alive(connection)
            finally:
                self._connections.give_back(connection)
                del connection
            if not lost:
                if plain.code == failures.Code.NO_DOMAIN:
                    raise NoDomainError(text)
                raise failures.explain_answer(what, plain, text)
            # A daemon that was started again has closed the connections that were kept.
            if call.sent or not was_kept:
                raise failures.explain_lost(what, text, sent=call.sent)

    def _hangs(self, what: str) -> HostError:
        msg = f"{what}: not sent, the host takes connections and says nothing; one hangs still"
        return HostUnreachableError(ErrorCode.HOST_UNREACHABLE, msg)
