from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.simulated_host import make_tls_files, simulated_host
from workers.simulated_host.host import Host
from workers.simulated_host.server import Endpoint, HostServer


HUNG = 300


def test_unix_socket() -> None:
    with simulated_host(unix=True, token="t") as host:
        path = Path(host.url.removeprefix("unix:"))
        assert path.is_socket()
        assert host.rpc("Version").status_code == 401
        assert len(host.state()["vms"]) == 3
    assert not path.exists()


def test_socket_of_a_dead_host_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    stale = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(stale))
    HostServer(Host(), Endpoint(unix=stale)).close()
    document = tmp_path / "document"
    document.write_text("dear")
    with pytest.raises(OSError, match="in use"):
        HostServer(Host(), Endpoint(unix=document))
    assert document.read_text() == "dear"


def test_tls() -> None:
    with simulated_host(tls="server") as host:
        assert host.url.startswith("https://")
        assert host.rpc("Version").status_code == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{host.url}/prpc/Version")


def test_tls_with_client_certificates() -> None:
    with simulated_host(tls="mutual") as host:
        assert host.tls is not None
        assert host.rpc("Version").status_code == 200
        without = host.tls.client_context(with_certificate=False)
        with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
            httpx.get(f"{host.url}/prpc/Version", verify=without)


def test_bad_certificate_is_said_when_it_is_made(tmp_path: Path) -> None:
    files = make_tls_files(tmp_path)
    with pytest.raises(ssl.SSLError):
        HostServer(Host(), Endpoint(tls_cert=files.server_cert, tls_key=files.client_key))


def test_holds_hundreds_of_hung_requests_and_ends_at_once() -> None:
    with simulated_host(vms=1, faults=[{"kind": "hang", "methods": ["StopVm"]}]) as host:
        address = urlsplit(host.url)
        target = f"/prpc/StopVm?id={host.vm_ids[0]}"
        request = f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
        clients = []
        for _ in range(HUNG):
            clients.append(socket.create_connection((address.hostname, address.port or 0)))
            clients[-1].sendall(request)
        host.wait_for(lambda: host.state()["stop_vm"] == {"current": HUNG, "max": HUNG})
        assert host.rpc("Version").status_code == 200
        host.stop()
        for client in clients:
            with client, suppress(ConnectionResetError):
                assert client.recv(1) == b""  # an answer would be wrong


def test_host_comes_back_where_it_was() -> None:
    with simulated_host() as host:
        port = urlsplit(host.url).port
        assert port is not None
        with pytest.raises(OSError, match="in use"):
            HostServer(Host(), Endpoint(port=port))
        host.stop()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{host.url}/prpc/Version")
        with simulated_host(port=port) as again:
            assert again.url == host.url
            assert again.rpc("Version").status_code == 200
