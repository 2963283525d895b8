"""Clients that send too much, too slowly, garbage, or nothing: a real process, raw sockets.

The process gives every client one second. What a test waits for is the end of a connection, or an
answer; when neither comes, the socket's own time-out fails it.
"""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.api_process import PATIENCE, api_process


if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.settings import Settings
    from tests.api.conftest import World
    from tests.support.api_process import ApiProcess

CONNECTIONS = 60
"""`max_connections` here. More than the threads that serve requests, which are 40."""

MAX_BODY = 65_536


@pytest.fixture(scope="module")
def served(
    api_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiProcess]:
    """Run the API with a second for each client."""
    bounds = {"request_timeout": "1", "max_connections": str(CONNECTIONS)}
    with api_process(api_settings, tmp_path_factory.mktemp("api"), **bounds) as made:
        yield made


@contextmanager
def connected(served: ApiProcess, *sent: bytes) -> Iterator[socket.socket]:
    """Open a connection and send something."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as made:
        for piece in sent:
            made.sendall(piece)
        yield made


def assert_well(served: ApiProcess) -> None:
    """It answers others, in a thread too, and nothing of it broke."""
    assert httpx.get(f"{served.url}/health/ready", timeout=PATIENCE).status_code == 200
    assert served.process.poll() is None
    log = served.log.read_text()
    assert "Traceback" not in log, log
    assert "request broke" not in log, log


@pytest.fixture(autouse=True)
def _unharmed(served: ApiProcess) -> Iterator[None]:
    """Whatever a test did to it, the API is well afterwards."""
    yield
    assert_well(served)


@pytest.fixture
def head(world: World) -> bytes:
    """Begin a request that would be served, up to what says how long its body is."""
    return (
        b"POST /api/v1/cvms/batch-stop HTTP/1.1\r\nHost: api\r\n"
        b"Content-Type: application/json\r\nX-API-Key: " + world.member_key.encode() + b"\r\n"
    )


def everything(connection: socket.socket) -> bytes:
    """Read until the other side closes or cuts the connection."""
    read = b""
    while True:
        try:
            piece = connection.recv(65_536)
        except ConnectionResetError:
            return read
        if not piece:
            return read
        read += piece


def answer(connection: socket.socket) -> tuple[int, Any]:
    """Read the one answer up to the connection's end: its status, and its body."""
    top, _, body = everything(connection).partition(b"\r\n\r\n")
    return int(top.split(b" ")[1]), json.loads(body)


def status(connection: socket.socket) -> int:
    """Read the next answer's status; the connection may stay open."""
    read = b""
    while b"\r\n" not in read:
        piece = connection.recv(65_536)
        assert piece, "closed without an answer"
        read += piece
    return int(read.split(b" ")[1])


GET = b"GET /health/live HTTP/1.1\r\nHost: api\r\n"


class TestHeaders:
    @pytest.mark.parametrize(
        "headers",
        [
            pytest.param(b"X-Long: " + b"x" * 20_000, id="one that is too long"),
            pytest.param(b"a: b\r\n" * 4_000, id="too many"),
        ],
    )
    def test_too_large(self, served: ApiProcess, headers: bytes) -> None:
        with connected(served, GET + headers) as connection:
            code, body = answer(connection)
        assert (code, body["error"]) == (400, "not_http")

    def test_too_large_though_complete(self, served: ApiProcess) -> None:
        """It comes in one segment or two, with its end: h11 bounds only what is incomplete."""
        long = GET + b"X-Long: " + b"x" * 20_000 + b"\r\n\r\n"
        with connected(served, long + GET + b"\r\n") as connection:
            read = everything(connection)
        assert read.startswith(b"HTTP/1.1 400 ")
        assert b"16 KiB" in read
        assert read.count(b"HTTP/1.1 ") == 1

    def test_as_large_as_may_be(self, served: ApiProcess) -> None:
        with connected(served, GET + b"X-Long: " + b"x" * 16_000 + b"\r\n\r\n") as connection:
            assert status(connection) == 200

    @pytest.mark.parametrize(
        "sent",
        [
            pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
            pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no Host"),
            pytest.param(GET + b"Content-Length: -1\r\n\r\n", id="negative length"),
            pytest.param(GET + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", id="two lengths"),
            pytest.param(GET + b"X: a\x00b\r\n\r\n", id="NUL"),
            pytest.param(GET + b"no colon\r\n\r\n", id="no colon"),
        ],
    )
    def test_not_http(self, served: ApiProcess, sent: bytes) -> None:
        with connected(served, sent) as connection:
            # Bytes without a line's end may be the beginning of one, until the time is over.
            assert answer(connection)[0] in {400, 408}

    def test_http_2(self, served: ApiProcess) -> None:
        """Its preface looks like a request with garbage behind it."""
        with connected(served, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") as connection:
            read = everything(connection)
        assert read.startswith(b"HTTP/1.1 404 ")
        assert b"HTTP/1.1 400 " in read


class TestTwoLengths:
    """A proxy may believe the length that this API does not, and be made to pass on a request."""

    CHUNKED = b"Transfer-Encoding: chunked\r\n"
    SMUGGLED = GET + b"\r\n"

    @pytest.mark.parametrize(
        "fields",
        [
            pytest.param(CHUNKED + b"Content-Length: 5\r\n", id="chunked first"),
            pytest.param(b"content-length: 5\r\n" + CHUNKED, id="length first"),
        ],
    )
    @pytest.mark.parametrize("begin", [GET, None], ids=["without a key", "with one"])
    def test_both(
        self, served: ApiProcess, head: bytes, begin: bytes | None, fields: bytes
    ) -> None:
        sent = (begin or head) + fields + b"\r\n0\r\n\r\n" + self.SMUGGLED
        with connected(served, sent) as connection:
            read = everything(connection)
        assert read.startswith(b"HTTP/1.1 400 ")
        assert b"connection: close" in read.lower()
        assert b"not both" in read
        assert read.count(b"HTTP/1.1 ") == 1

    def test_before_the_body(self, served: ApiProcess, head: bytes) -> None:
        fields = self.CHUNKED + b"Content-Length: 5\r\n\r\n"
        with connected(served, head + fields) as connection:
            code, body = answer(connection)
        assert (code, body["error"]) == (400, "not_http")

    def test_garbage_for_the_body(self, served: ApiProcess) -> None:
        """The answer to the garbage comes first, and the application's may not be a second one."""
        fields = self.CHUNKED + b"Content-Length: 5\r\n\r\n"
        with connected(served, GET + fields + b"zz\r\n") as connection:
            assert answer(connection)[0] == 400

    def test_chunked_in_http_1_0(self, served: ApiProcess, head: bytes) -> None:
        old = head.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Connection: keep-alive\r\n"
        with connected(served, old + self.CHUNKED + b"\r\n0\r\n\r\n" + self.SMUGGLED) as made:
            read = everything(made)
        assert read.startswith(b"HTTP/1.1 400 ")
        assert b"needs HTTP/1.1" in read
        assert read.count(b"HTTP/1.1 4") == 1
        assert b"HTTP/1.1 2" not in read


class TestBodies:
    def test_too_large_as_announced(self, served: ApiProcess, head: bytes) -> None:
        """Answered before a byte of it was sent."""
        with connected(served, head + b"Content-Length: 1000000000\r\n\r\n") as connection:
            assert status(connection) == 413

    def test_too_large_in_chunks(self, served: ApiProcess, head: bytes) -> None:
        chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        chunks = [chunk] * (MAX_BODY // 0x4000 + 1)
        with connected(served, head, b"Transfer-Encoding: chunked\r\n\r\n", *chunks) as connection:
            assert status(connection) == 413

    @pytest.mark.parametrize(
        "garbage", [b"zz\r\n", b"-1\r\n", b"5\r\nabcdefgh\r\n", b"\x00\r\n", b"f" * 30 + b"\r\n"]
    )
    def test_garbage_for_chunks(self, served: ApiProcess, head: bytes, garbage: bytes) -> None:
        with connected(
            served, head + b"Transfer-Encoding: chunked\r\n\r\n" + garbage
        ) as connection:
            code, body = answer(connection)
        assert (code, body["error"]) == (400, "not_http")

    def test_garbage_behind_an_answer(self, served: ApiProcess) -> None:
        """The 401 comes before the body; uvicorn's own answer to garbage would be a second one."""
        post = b"POST /api/v1/cvms/batch-stop HTTP/1.1\r\nHost: api\r\n"
        with connected(served, post + b"Transfer-Encoding: chunked\r\n\r\n") as connection:
            assert status(connection) == 401
            connection.sendall(b"zz\r\n")
            assert b"HTTP/1.1" not in everything(connection)


class TestSlowClients:
    def test_nothing_is_sent(self, served: ApiProcess) -> None:
        with connected(served) as connection:
            assert everything(connection) == b""

    def test_half_of_the_headers(self, served: ApiProcess) -> None:
        with connected(served, GET) as connection:
            code, body = answer(connection)
        assert (code, body["error"]) == (408, "request_timeout")

    def test_headers_byte_by_byte(self, served: ApiProcess) -> None:
        """Each byte is in time, and none of them sets the clock back."""
        with connected(served) as connection:
            assert b" 408 " in drip(connection, GET + b"X-Drip: ")

    def test_half_of_the_body(self, served: ApiProcess, head: bytes) -> None:
        with connected(served, head + b"Content-Length: 15\r\n\r\n{") as connection:
            code, body = answer(connection)
        assert code == 408
        assert "1 seconds" in body["detail"]

    def test_body_byte_by_byte(self, served: ApiProcess, head: bytes) -> None:
        with connected(served, head + b"Content-Length: 60000\r\n\r\n") as connection:
            assert b" 408 " in drip(connection, b"")

    def test_a_body_that_nobody_waits_for(self, served: ApiProcess) -> None:
        """It was answered already; without a bound the rest could take for ever."""
        with connected(served, GET + b"Content-Length: 60000\r\n\r\n") as connection:
            assert status(connection) == 200
            assert b"HTTP/1.1" not in drip(connection, b"")

    def test_an_idle_connection(self, served: ApiProcess) -> None:
        with connected(served, GET + b"\r\n") as connection:
            assert status(connection) == 200
            assert b"HTTP/1.1" not in everything(connection)

    def test_half_of_a_second_request(self, served: ApiProcess) -> None:
        with connected(served, GET + b"\r\n") as connection:
            assert status(connection) == 200
            connection.sendall(GET)
            assert b" 408 " in everything(connection)

    def test_answers_that_are_not_taken(self, served: ApiProcess) -> None:
        """The API stops reading when its answers pile up, so that sending gets stuck, then cut."""
        ask = b"GET /openapi.json HTTP/1.1\r\nHost: api\r\n\r\n" * 100
        with connected(served) as connection, pytest.raises((ConnectionError, BrokenPipeError)):
            while True:
                connection.sendall(ask)

    def test_many_at_once_hold_no_thread(self, served: ApiProcess, head: bytes) -> None:
        """More than there are threads, all in the middle of their body; others are served."""
        with ExitStack() as stack:
            slow = [
                stack.enter_context(connected(served, head + b"Content-Length: 15\r\n\r\n{"))
                for _ in range(CONNECTIONS - 10)
            ]
            assert_well(served)
            assert {answer(connection)[0] for connection in slow} == {408}


def drip(connection: socket.socket, begin: bytes) -> bytes:
    """Send a byte every 50 ms until the other side has enough; gives what it said."""
    connection.sendall(begin)
    connection.settimeout(0.05)
    read = b""
    for _ in range(int(PATIENCE / 0.05)):
        try:
            connection.sendall(b"x")
            piece = connection.recv(65_536)
        except TimeoutError:
            continue
        except ConnectionError:
            break
        if not piece:
            break
        read += piece
    else:
        pytest.fail("it was never cut off")
    return read


class TestConnections:
    def test_one_too_many(self, served: ApiProcess) -> None:
        with ExitStack() as stack:
            for _ in range(CONNECTIONS):
                stack.enter_context(connected(served))
            with connected(served) as connection:
                top = everything(connection)
            assert b" 503 " in top
            assert b"Retry-After: " in top
            assert b"too_many_connections" in top

    def test_pipelined_requests(self, served: ApiProcess) -> None:
        """All are answered, in order, and the connection ends with the last."""
        last = GET + b"Connection: close\r\n\r\n"
        with connected(served, (GET + b"\r\n") * 99 + last) as connection:
            assert everything(connection).count(b"HTTP/1.1 200 ") == 100
