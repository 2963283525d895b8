"""TLS to a host: trusted, not trusted, with and without a client certificate."""

from __future__ import annotations

import ssl
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from pydantic import SecretStr

from shared.models.errors import ErrorCode
from shared.models.hosts import HostCredentials
from shared.models.states import PowerState
from tests.workers.drivers.raw_hosts import Peer, RawHost, answering, http_answer
from workers.drivers.errors import (
    FinalHostError,
    HostUnreachableError,
    OutcomeUnknownError,
)
from workers.drivers.tls import build_ssl_context


if TYPE_CHECKING:
    from tests.workers.drivers.conftest import Connect
    from workers.drivers.protocol import CallBounds

VM = "vm-1"
STOPPED = http_answer({"found": True, "info": {"id": VM, "status": "stopped"}})
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def pem(authority: trustme.CA) -> str:
    return authority.cert_pem.bytes().decode()


def server_context(
    authority: trustme.CA,
    name: str = "127.0.0.1",
    *,
    not_after: datetime | None = None,
    clients: trustme.CA | None = None,
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, not_after=not_after).configure_cert(context)
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_credentials(authority: trustme.CA, clients: trustme.CA) -> HostCredentials:
    issued = clients.issue_cert("cvmstop.test")
    return HostCredentials(
        ca_pem=pem(authority),
        client_cert_pem="".join(blob.bytes().decode() for blob in issued.cert_chain_pems),
        client_key_pem=SecretStr(issued.private_key_pem.bytes().decode()),
    )


def test_given_authority_is_trusted(
    authority: trustme.CA, connect: Connect, bounds: CallBounds
) -> None:
    with RawHost(answering(STOPPED), ssl_context=server_context(authority)) as host:
        driver = connect(
            host.address,
            HostCredentials(ca_pem=f"# Zertifizierungsstelle für uns\n{pem(authority)}"),
        )
        for _ in range(2):
            assert driver.power_state(VM, bounds) is PowerState.STOPPED
    assert [request.connection for request in host.requests] == [0, 0]


@pytest.mark.parametrize("given", [False, True])
def test_other_authorities_are_not(
    given: bool,  # noqa: FBT001 (a parameter of the test)
    authority: trustme.CA,
    connect: Connect,
    bounds: CallBounds,
) -> None:
    credentials = HostCredentials(ca_pem=pem(trustme.CA()) if given else None)
    with RawHost(answering(STOPPED), ssl_context=server_context(authority)) as host:
        driver = connect(host.address, credentials)
        for call in (driver.power_state, driver.force_stop):
            with pytest.raises(HostUnreachableError, match="certificate is not trusted") as caught:
                call(VM, bounds)
            assert caught.value.code is ErrorCode.HOST_UNREACHABLE
    assert host.requests == []


def test_expired(authority: trustme.CA, connect: Connect, bounds: CallBounds) -> None:
    context = server_context(authority, not_after=LONG_AGO)
    with RawHost(answering(STOPPED), ssl_context=context) as host:
        driver = connect(host.address, HostCredentials(ca_pem=pem(authority)))
        with pytest.raises(HostUnreachableError, match="expired"):
            driver.power_state(VM, bounds)
    assert host.requests == []


def test_another_hosts_certificate(
    authority: trustme.CA, connect: Connect, bounds: CallBounds
) -> None:
    context = server_context(authority, "other.test")
    with RawHost(answering(STOPPED), ssl_context=context) as host:
        driver = connect(host.address, HostCredentials(ca_pem=pem(authority)))
        with pytest.raises(HostUnreachableError, match="not trusted"):
            driver.power_state(VM, bounds)
    assert host.requests == []


def test_client_certificate(authority: trustme.CA, connect: Connect, bounds: CallBounds) -> None:
    clients = trustme.CA()
    context = server_context(authority, clients=clients)
    with RawHost(answering(STOPPED), ssl_context=context) as host:
        driver = connect(host.address, client_credentials(authority, clients))
        assert driver.power_state(VM, bounds) is PowerState.STOPPED


def test_client_certificate_refused_in_the_handshake(
    authority: trustme.CA, connect: Connect, bounds: CallBounds
) -> None:
    context = server_context(authority, clients=trustme.CA())
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with RawHost(answering(STOPPED), ssl_context=context) as host:
        driver = connect(host.address, HostCredentials(ca_pem=pem(authority)))
        for call in (driver.power_state, driver.force_stop):
            with pytest.raises(HostUnreachableError, match="TLS failed"):
                call(VM, bounds)
    assert host.requests == []


def test_client_certificate_refused_after_the_handshake(
    authority: trustme.CA, connect: Connect, bounds: CallBounds
) -> None:
    """With TLS 1.3 the refusal comes when the request is on its way already."""

    def refuse(peer: Peer) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                peer.send(outgoing.read())
                incoming.write(peer.receive())
            except ssl.SSLError:
                peer.send(outgoing.read())
                peer.wait_for_end()  # closing with data unread would lose the refusal
                return

    context = server_context(authority, clients=trustme.CA())
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with RawHost(refuse) as host:
        address = host.address.replace("http:", "https:")
        driver = connect(address, HostCredentials(ca_pem=pem(authority)))
        for call in (driver.power_state, driver.force_stop):
            with pytest.raises(HostUnreachableError, match="refused our client certificate"):
                call(VM, bounds)


def test_handshake_that_never_ends(
    authority: trustme.CA, connect: Connect, bounds: CallBounds
) -> None:
    with RawHost(Peer.wait_for_end) as host:
        address = host.address.replace("http:", "https:")
        driver = connect(address, HostCredentials(ca_pem=pem(authority)), connect_timeout=0.1)
        with pytest.raises(HostUnreachableError, match="no connection within"):
            driver.force_stop(VM, bounds)


def test_tls_to_a_host_without(authority: trustme.CA, connect: Connect, bounds: CallBounds) -> None:
    def behave(peer: Peer) -> None:
        peer.receive()
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        peer.wait_for_end()

    with RawHost(behave) as host:
        address = host.address.replace("http:", "https:")
        driver = connect(address, HostCredentials(ca_pem=pem(authority)))
        with pytest.raises(HostUnreachableError, match="TLS failed"):
            driver.force_stop(VM, bounds)


def test_a_cut_tls_connection_leaves_the_outcome_unknown(
    authority: trustme.CA, connect: Connect, bounds: CallBounds
) -> None:
    def behave(peer: Peer) -> None:
        peer.read_request()

    with RawHost(behave, ssl_context=server_context(authority)) as host:
        driver = connect(host.address, HostCredentials(ca_pem=pem(authority)))
        with pytest.raises(OutcomeUnknownError) as caught:
            driver.force_stop(VM, bounds)
    assert caught.value.code is ErrorCode.CONNECTION_LOST


def test_verification_is_on() -> None:
    context = build_ssl_context(HostCredentials())
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def encrypted_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")
    ).decode()


def test_unusable_pem_texts(authority: trustme.CA) -> None:
    good = client_credentials(authority, authority)
    other_key = client_credentials(authority, authority).client_key_pem
    for changes in (
        {"ca_pem": "no certificate"},
        {"ca_pem": ""},
        {"ca_pem": " "},
        {"ca_pem": "ä"},
        {"client_cert_pem": "no certificate"},
        {"client_cert_pem": None},
        {"client_key_pem": None},
        {"client_key_pem": other_key},
        {"client_key_pem": SecretStr("ä")},
        {"client_key_pem": SecretStr(encrypted_key())},
    ):
        with pytest.raises(FinalHostError) as caught:
            build_ssl_context(good.model_copy(update=changes))
        assert caught.value.code is ErrorCode.BAD_HOST_CONFIGURATION
        assert "PRIVATE" not in caught.value.message


def test_key_is_on_disk_for_its_owner_only_and_not_for_long(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    modes: list[int] = []
    load = ssl.SSLContext.load_cert_chain

    def spy(context: ssl.SSLContext, path: str, password: str) -> None:
        modes.append(Path(path).stat().st_mode & 0o777)
        load(context, path, password=password)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", spy)
    build_ssl_context(client_credentials(authority, authority))
    assert modes == [0o600]
    assert list(tmp_path.iterdir()) == []
