"""Connections that fail, stall, break and go stale."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any

import pytest

from shared.models.errors import ErrorCode
from shared.models.states import PowerState
from tests.support.ports import free_port
from tests.workers.drivers.raw_hosts import Peer, RawHost, answering, http_answer
from workers.drivers import connections
from workers.drivers.errors import (
    HostError,
    HostRefusedError,
    HostSilentError,
    HostUnreachableError,
    OutcomeUnknownError,
    OutOfTimeError,
    StaleConnectionError,
)
from workers.drivers.protocol import CallBounds


if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shared.models.turns import Exchange
    from tests.workers.drivers.conftest import Connect

VM = "vm-1"
STOPPED = http_answer({"found": True, "info": {"id": VM, "status": "stopped"}})


def test_refused(connect: Connect, bounds: CallBounds, exchanges: list[Exchange]) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    driver = connect(address)
    for call in (driver.power_state, driver.force_stop):
        with pytest.raises(HostUnreachableError, match="Connection refused") as caught:
            call(VM, bounds)
        assert caught.value.code is ErrorCode.HOST_UNREACHABLE
        assert address in caught.value.message
    assert len(exchanges) == 2


def test_no_unix_socket(tmp_path: Path, connect: Connect, bounds: CallBounds) -> None:
    driver = connect(f"unix:{tmp_path}/none.sock")
    with pytest.raises(HostUnreachableError, match="No such file"):
        driver.force_stop(VM, bounds)


def test_no_connection_in_time(connect: Connect, bounds: CallBounds) -> None:
    with socket.socket() as listener, socket.socket() as first:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        first.connect(listener.getsockname())  # fills the queue: the next one is left waiting
        driver = connect(f"http://127.0.0.1:{listener.getsockname()[1]}", connect_timeout=0.1)
        for call in (driver.power_state, driver.force_stop):
            with pytest.raises(HostUnreachableError, match="no connection within"):
                call(VM, bounds)


def test_unknown_name(
    monkeypatch: pytest.MonkeyPatch, connect: Connect, bounds: CallBounds
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    driver = connect("http://no-such-host.test:9080")
    with pytest.raises(HostUnreachableError, match="Name or service not known"):
        driver.force_stop(VM, bounds)


def test_impossible_name(connect: Connect, bounds: CallBounds) -> None:
    driver = connect(f"http://{'a' * 70}.test:9080")
    with pytest.raises(HostUnreachableError):
        driver.force_stop(VM, bounds)


def test_a_name_that_is_never_resolved(
    monkeypatch: pytest.MonkeyPatch, connect: Connect, bounds: CallBounds
) -> None:
    released = threading.Event()

    def wait(*_: object, **__: object) -> Any:
        released.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", wait)
    driver = connect("http://slow.test:9080", connect_timeout=0.1)
    try:
        with pytest.raises(HostUnreachableError, match="no connection within"):
            driver.force_stop(VM, bounds)
    finally:
        released.set()


def test_a_dead_address_leaves_time_for_the_next_one(
    monkeypatch: pytest.MonkeyPatch, connect: Connect, bounds: CallBounds
) -> None:
    with (
        socket.socket() as dead,
        socket.socket() as first,
        RawHost(answering(STOPPED)) as host,
    ):
        port = int(host.address.rpartition(":")[2])
        dead.bind(("127.0.0.2", port))
        dead.listen(0)
        first.connect(("127.0.0.2", port))
        rows = [(socket.AF_INET, None, None, None, (ip, port)) for ip in ("127.0.0.2", "127.0.0.1")]
        connecting = socket.getaddrinfo

        def resolve(name: str, *rest: Any, **named: Any) -> Any:
            return rows if name == "two.test" else connecting(name, *rest, **named)

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        driver = connect(f"http://two.test:{port}", connect_timeout=1.0)
        assert driver.power_state(VM, bounds) is PowerState.STOPPED


def drip_headers(peer: Peer) -> None:
    peer.read_request()
    peer.drip(b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 1_000 + b"\r\n" + STOPPED.partition(b"\r\n")[2])


def drip_body(peer: Peer) -> None:
    peer.read_request()
    peer.drip(http_answer(b" " * 1_000 + STOPPED.partition(b"\r\n\r\n")[2]))


def drip_chunks(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    peer.drip(b"1\r\n \r\n" * 300 + b"0\r\n\r\n")


def drip_interim_answers(peer: Peer) -> None:
    peer.read_request()
    peer.drip(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100 + STOPPED)


@pytest.mark.parametrize("behave", [drip_headers, drip_body, drip_chunks, drip_interim_answers])
def test_a_drip_does_not_outlast_the_deadline(
    behave: Callable[[Peer], None], connect: Connect, exchanges: list[Exchange]
) -> None:
    """Each drip would end well after some ten seconds, so that waiting it out is no error."""
    with RawHost(behave) as host:
        driver = connect(host.address, query_timeout=0.15)
        with pytest.raises(HostSilentError) as caught:
            driver.power_state(
                VM, CallBounds(deadline=time.monotonic() + 30, record=exchanges.append)
            )
        assert caught.value.code is ErrorCode.HOST_TIMEOUT
        # The caller's own deadline does the same where it is the earlier one.
        with pytest.raises(OutcomeUnknownError) as unknown:
            driver.force_stop(
                VM, CallBounds(deadline=time.monotonic() + 0.15, record=exchanges.append)
            )
        assert unknown.value.code is ErrorCode.HOST_TIMEOUT


@pytest.mark.parametrize("cut", [0, 5, 30, len(STOPPED) - 1])
def test_cut_in_the_middle(
    cut: int, connect: Connect, bounds: CallBounds, exchanges: list[Exchange]
) -> None:
    def behave(peer: Peer) -> None:
        peer.read_request()
        peer.send(STOPPED[:cut])

    with RawHost(behave) as host:
        driver = connect(host.address)
        with pytest.raises(HostSilentError) as caught:
            driver.power_state(VM, bounds)
        assert caught.value.code is ErrorCode.CONNECTION_LOST
        with pytest.raises(OutcomeUnknownError) as unknown:
            driver.force_stop(VM, bounds)
        assert unknown.value.code is ErrorCode.CONNECTION_LOST
    assert len(host.requests) == len(exchanges) == 2


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",  # to `http.client`: all
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    ],
)
def test_garbage(garbage: bytes, connect: Connect, bounds: CallBounds) -> None:
    def behave(peer: Peer) -> None:
        peer.read_request()
        peer.send(garbage)
        peer.wait_for_end()

    with RawHost(behave) as host:
        driver = connect(host.address)
        with pytest.raises(HostRefusedError) as caught:
            driver.power_state(VM, bounds)
    assert caught.value.code is ErrorCode.BAD_ANSWER


def test_interim_answers_are_not_the_answer(connect: Connect, bounds: CallBounds) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    with RawHost(answering(hints + hints + STOPPED)) as host:
        assert connect(host.address).power_state(VM, bounds) is PowerState.STOPPED


def test_connections_are_kept(connect: Connect, bounds: CallBounds) -> None:
    with RawHost(answering(STOPPED)) as host:
        driver = connect(host.address)
        for _ in range(3):
            driver.power_state(VM, bounds)
    assert [request.connection for request in host.requests] == [0, 0, 0]


@pytest.mark.parametrize("behind", [b"garbage", STOPPED])
def test_what_is_behind_an_answer_is_nobody_elses(
    behind: bytes, connect: Connect, bounds: CallBounds
) -> None:
    """A connection on which more came than was asked for is out of step."""

    def behave(peer: Peer) -> None:
        peer.read_request()
        peer.send(STOPPED + behind)
        peer.wait_for_end()

    with RawHost(behave) as host:
        driver = connect(host.address)
        for _ in range(2):
            assert driver.power_state(VM, bounds) is PowerState.STOPPED
    assert [request.connection for request in host.requests] == [0, 1]


def closes_on_second_request(peer: Peer) -> None:
    """Close a kept connection just when the next request is on its way."""
    peer.read_request()
    peer.send(STOPPED)
    peer.read_request()


def test_a_question_on_a_stale_connection_is_asked_again(
    connect: Connect, bounds: CallBounds, exchanges: list[Exchange]
) -> None:
    with RawHost(closes_on_second_request) as host:
        driver = connect(host.address)
        driver.power_state(VM, bounds)
        assert driver.power_state(VM, bounds) is PowerState.STOPPED
    assert [request.connection for request in host.requests] == [0, 0, 1]
    assert len(exchanges) == 3
    assert "broke" in exchanges[1].answer


def test_a_stop_on_a_stale_connection_is_never_repeated(
    connect: Connect, bounds: CallBounds
) -> None:
    with RawHost(closes_on_second_request) as host:
        driver = connect(host.address)
        driver.power_state(VM, bounds)
        with pytest.raises(StaleConnectionError) as caught:
            driver.force_stop(VM, bounds)
    assert caught.value.fate is OutcomeUnknownError.fate
    assert [request.line.split()[1] for request in host.requests] == [
        "/prpc/GetInfo?json",
        "/prpc/StopVm?json",
    ]


def test_a_connection_that_was_closed_while_idle_is_not_used(
    connect: Connect, bounds: CallBounds
) -> None:
    closed = threading.Event()

    class ClosingHost(RawHost):
        def _serve(self, sock: socket.socket, number: int) -> None:
            super()._serve(sock, number)
            closed.set()

    def behave(peer: Peer) -> None:
        peer.read_request()
        peer.send(STOPPED)

    with ClosingHost(behave) as host:
        driver = connect(host.address)
        driver.power_state(VM, bounds)
        assert closed.wait(10)
        driver.force_stop(VM, bounds)
    assert [request.connection for request in host.requests] == [0, 1]


def test_a_request_under_way_outlives_close(connect: Connect, bounds: CallBounds) -> None:
    asked, go = threading.Event(), threading.Event()

    def behave(peer: Peer) -> None:
        peer.read_request()
        asked.set()
        go.wait(10)
        peer.send(STOPPED)
        peer.wait_for_end()

    with RawHost(behave) as host, ThreadPoolExecutor(1) as threads:
        driver = connect(host.address)
        answer = threads.submit(driver.power_state, VM, bounds)
        assert asked.wait(10)
        driver.close()
        go.set()
        assert answer.result() is PowerState.STOPPED
        assert driver._transport._connections.idle == 0


def test_no_free_connection_is_no_fault_of_the_host(
    monkeypatch: pytest.MonkeyPatch, connect: Connect, bounds: CallBounds
) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 1)
    asked = threading.Event()

    def behave(peer: Peer) -> None:
        peer.read_request()
        asked.set()
        peer.wait_for_end()

    with ThreadPoolExecutor(1) as threads, RawHost(behave) as host:
        driver = connect(host.address, stop_timeout=0.1)
        under_way = threads.submit(driver.power_state, VM, bounds)
        assert asked.wait(10)
        with pytest.raises(OutOfTimeError):
            driver.force_stop(VM, bounds)
        assert not under_way.done()
    with pytest.raises(HostError):
        under_way.result()


def test_many_threads_share_a_driver(connect: Connect, bounds: CallBounds) -> None:
    with RawHost(answering(STOPPED)) as host, ThreadPoolExecutor(16) as threads:
        driver = connect(host.address)
        states = list(threads.map(lambda _: driver.power_state(VM, bounds), range(200)))
    assert states == [PowerState.STOPPED] * 200
    assert host.accepted <= 16


def test_a_fault_of_our_own_is_not_blamed_on_the_host(
    monkeypatch: pytest.MonkeyPatch, connect: Connect, bounds: CallBounds
) -> None:
    def fail(*_: object, **__: object) -> Any:
        msg = "ours"
        raise LookupError(msg)

    with RawHost(answering(STOPPED)) as host:
        monkeypatch.setattr(HTTPResponse, "begin", fail)
        driver = connect(host.address)
        with pytest.raises(LookupError):
            driver.force_stop(VM, bounds)
