"""Hosts that are not there, are not trusted, say nothing or something else. All on loopback."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from shared.models.errors import ErrorCode
from tests.support.waiting import eventually
from workers.drivers.errors import HostError, HostRefusedError, HostUnreachableError
from workers.drivers.libvirt.library import load_library


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.workers.drivers.libvirt.conftest import Connect
    from workers.drivers.libvirt.driver import LibvirtDriver
    from workers.drivers.protocol import CallBounds


@contextmanager
def served(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve whatever connects to a port of loopback; gives the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client, suppress(OSError):
                        answer(client)

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def problem(driver: LibvirtDriver, bounds: CallBounds) -> HostError:
    with pytest.raises(HostError) as caught:
        driver.ping(bounds)
    return caught.value


def test_a_name_that_does_not_resolve(connect: Connect, bounds: CallBounds) -> None:
    error = problem(connect("qemu+tcp://name.invalid/system"), bounds)
    assert isinstance(error, HostUnreachableError)
    assert "name.invalid" in error.message


@pytest.mark.parametrize(
    "uri", ["qemu+tcp://127.0.0.1:1/system", "qemu:///system?socket=/nonexistent/libvirt-sock"]
)
def test_nobody_listens(uri: str, connect: Connect, bounds: CallBounds) -> None:
    error = problem(connect(uri), bounds)
    assert (type(error), error.code) == (HostUnreachableError, ErrorCode.HOST_UNREACHABLE)


def test_tls_that_is_not_trusted(connect: Connect, bounds: CallBounds, tmp_path: Path) -> None:
    trusted, others = trustme.CA(), trustme.CA()
    trusted.cert_pem.write_to_path(str(tmp_path / "cacert.pem"))
    client = trusted.issue_cert("client.example")
    client.private_key_pem.write_to_path(str(tmp_path / "clientkey.pem"))
    client.cert_chain_pems[0].write_to_path(str(tmp_path / "clientcert.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    others.issue_cert("127.0.0.1").configure_cert(context)

    def answer(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as secured:
            secured.recv(1)

    with served(answer) as port:
        error = problem(connect(f"qemu+tls://127.0.0.1:{port}/system?pkipath={tmp_path}"), bounds)
    assert (type(error), error.code) == (HostUnreachableError, ErrorCode.HOST_UNREACHABLE)
    assert "the host is not trusted" in error.message


def test_who_speaks_something_else(connect: Connect, bounds: CallBounds) -> None:
    def answer(client: socket.socket) -> None:
        client.recv(10)
        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        client.recv(1000)

    with served(answer) as port:
        error = problem(connect(f"qemu+tcp://127.0.0.1:{port}/system"), bounds)
    assert (type(error), error.code) == (HostRefusedError, ErrorCode.BAD_ANSWER)


class TestSilent:
    """A listener that says nothing, as a daemon after SIGSTOP: the kernel takes connections."""

    @pytest.fixture
    def listener(self) -> Iterator[socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as made:
            yield made

    def test_ends_in_time_once_and_then_at_once(
        self, connect: Connect, bounds: CallBounds, listener: socket.socket
    ) -> None:
        driver = connect(
            f"qemu+tcp://127.0.0.1:{listener.getsockname()[1]}/system", connect_timeout=0.2
        )
        error = problem(driver, bounds)
        assert isinstance(error, HostUnreachableError)
        assert "no connection within" in error.message
        # One thread hangs, and however often it is tried there is never another.
        for _ in range(20):
            error = problem(driver, bounds)
            assert isinstance(error, HostUnreachableError)
            assert "takes connections and says nothing" in error.message
        assert driver.hanging_calls == 1
        listener.settimeout(5)
        client, _ = listener.accept()
        client.close()
        eventually(lambda: driver.hanging_calls == 0)
        assert "no connection within" in problem(driver, bounds).message  # it is tried again
        listener.accept()[0].close()
        eventually(lambda: driver.hanging_calls == 0)

    def test_many_at_once_open_one_connection(
        self, connect: Connect, bounds: CallBounds, listener: socket.socket
    ) -> None:
        driver = connect(
            f"qemu+tcp://127.0.0.1:{listener.getsockname()[1]}/system", connect_timeout=0.3
        )
        errors: list[HostError] = []
        threads = [
            threading.Thread(target=lambda: errors.append(problem(driver, bounds)))
            for _ in range(40)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {type(error) for error in errors} == {HostUnreachableError}
        assert len(errors) == 40
        eventually(lambda: driver.hanging_calls == 1)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            for _ in range(2):
                listener.accept()[0].close()
        eventually(lambda: driver.hanging_calls == 0)

    def test_keeps_no_process_from_ending(self, listener: socket.socket) -> None:
        program = (
            "import time\n"
            "from shared.models.hosts import HostConnection, HostCredentials\n"
            "from workers.drivers.libvirt.driver import LibvirtDriver\n"
            "from workers.drivers.protocol import CallBounds\n"
            f"host = HostConnection(name='h', driver='libvirt', credentials=HostCredentials(),"
            f" address='qemu+tcp://127.0.0.1:{listener.getsockname()[1]}/system')\n"
            "driver = LibvirtDriver(host, connect_timeout=0.2, query_timeout=1, stop_timeout=1,"
            " restart_guard=1)\n"
            "try:\n"
            "    driver.ping(CallBounds(deadline=time.monotonic() + 5, record=print))\n"
            "finally:\n"
            "    print('hangs', driver.hanging_calls)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=Path(__file__).parents[4],
        )
        assert "hangs 1" in done.stdout
        assert "HostUnreachableError" in done.stderr
        assert "libvirt:" not in done.stderr, "libvirt printed for itself"


def test_libvirt_prints_nothing(
    connect: Connect, bounds: CallBounds, capfd: pytest.CaptureFixture[str]
) -> None:
    problem(connect("qemu+tcp://127.0.0.1:1/system"), bounds)
    assert capfd.readouterr() == ("", "")


def test_the_event_loop_is_one_for_the_process() -> None:
    load_library()
    load_library()
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("libvirt-events") == 1
