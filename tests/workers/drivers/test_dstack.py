"""What is sent to a dstack-vmm, and what each of its answers means."""

from __future__ import annotations

import base64
import json
import re
import time
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from shared.models.errors import ErrorCode
from shared.models.hosts import HostCredentials
from shared.models.states import PowerState
from tests.support.ports import free_port
from tests.workers.drivers.raw_hosts import Peer, RawHost, answering, http_answer
from workers.drivers.dstack import MAX_ANSWER
from workers.drivers.errors import (
    FinalHostError,
    HostError,
    HostRefusedError,
    HostSilentError,
    HostUnreachableError,
    OutcomeUnknownError,
    OutOfTimeError,
)
from workers.drivers.protocol import CallBounds, HostVersion, HostVm


if TYPE_CHECKING:
    from pathlib import Path

    from shared.models.turns import Exchange
    from tests.workers.drivers.conftest import Connect

VM = "3f1c0000-0000-4000-8000-000000000001"


def info(status: str, vm_uuid: str = VM) -> bytes:
    return http_answer(
        {"found": True, "info": {"id": vm_uuid, "name": "a", "status": status, "uptime": "5m"}}
    )


@pytest.mark.parametrize("word", ["running", "exited", "stopping", "stopped", "removing"])
def test_each_status_word(word: str, connect: Connect, bounds: CallBounds) -> None:
    with RawHost(answering(info(word))) as host:
        assert connect(host.address).power_state(VM, bounds) == PowerState(word)
    (request,) = host.requests
    assert request.line == "POST /prpc/GetInfo?json HTTP/1.1"
    assert request.json == {"id": VM}
    assert request.headers["content-type"] == "application/json"
    assert request.headers["host"] == host.address.removeprefix("http://")
    assert "authorization" not in request.headers


def test_unknown_vm_is_absent(connect: Connect, bounds: CallBounds) -> None:
    with RawHost(answering(http_answer({"found": False, "info": None}))) as host:
        assert connect(host.address).power_state(VM, bounds) is PowerState.ABSENT


@pytest.mark.parametrize(
    "answer",
    [
        info("absent"),
        info("Stopped"),
        info("stopped", vm_uuid="another"),
        http_answer({"found": True, "info": None}),
        http_answer({"found": "no"}),
        http_answer([]),
        http_answer(b"<html>hello</html>"),
        http_answer(b""),
        http_answer(b'{"found": false, "\xff": 1}'),
        http_answer(b"[" * 100_000),
    ],
)
def test_wrong_shape(answer: bytes, connect: Connect, bounds: CallBounds) -> None:
    with RawHost(answering(answer)) as host:
        driver = connect(host.address)
        with pytest.raises(HostRefusedError) as caught:
            driver.power_state(VM, bounds)
    assert caught.value.code is ErrorCode.BAD_ANSWER
    assert len(caught.value.message) < 1_200


@pytest.mark.parametrize("body", [b"null", b"", b" \n", b"{}", b'{"ok": true}'])
def test_every_empty_answer_to_a_stop_is_a_yes(
    body: bytes, connect: Connect, bounds: CallBounds, exchanges: list[Exchange]
) -> None:
    with RawHost(answering(http_answer(body))) as host:
        connect(host.address).force_stop(VM, bounds)
    (request,) = host.requests
    assert request.line == "POST /prpc/StopVm?json HTTP/1.1"
    assert request.json == {"id": VM}
    (exchange,) = exchanges
    assert exchange.request == f'StopVm {{"id": "{VM}"}}'
    assert exchange.answer == f"200 {body.decode().strip()}".rstrip()


@pytest.mark.parametrize("body", [b"<html>welcome</html>", b"[]", b'"stopped"', b"[" * 100_000])
def test_any_other_answer_to_a_stop_is_none(
    body: bytes, connect: Connect, bounds: CallBounds
) -> None:
    with RawHost(answering(http_answer(body))) as host:
        driver = connect(host.address)
        with pytest.raises(HostRefusedError) as caught:
            driver.force_stop(VM, bounds)
    assert caught.value.code is ErrorCode.BAD_ANSWER


def test_list_of_a_thousand(connect: Connect, bounds: CallBounds) -> None:
    vms = [
        {"id": f"vm-{number}", "name": "n", "status": "running", "configuration": "x" * 4_000}
        for number in range(1_000)
    ]
    with RawHost(answering(http_answer({"vms": vms, "total": 1_000}))) as host:
        listed = connect(host.address).list_vms(bounds)
    assert len(listed) == 1_000
    assert listed[7] == HostVm(vm_uuid="vm-7", name="n", power_state=PowerState.RUNNING)
    assert host.requests[0].line == "POST /prpc/Status?json HTTP/1.1"


def test_ping(connect: Connect, bounds: CallBounds) -> None:
    with RawHost(answering(http_answer({"version": "v0.6.0", "rev": "abc"}))) as host:
        version = connect(host.address).ping(bounds)
    assert version == HostVersion(version="v0.6.0", revision="abc")
    assert host.requests[0].line == "POST /prpc/Version?json HTTP/1.1"


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (400, {"error": "Service not found: StopVm"}, FinalHostError, ErrorCode.NOT_A_VM_HOST),
        (400, {"error": "Failed to stop VM: no"}, HostRefusedError, ErrorCode.HOST_ERROR),
        (400, b"not json", HostRefusedError, ErrorCode.HOST_ERROR),
        (401, b"", FinalHostError, ErrorCode.CREDENTIALS_REFUSED),
        (403, b"", FinalHostError, ErrorCode.CREDENTIALS_REFUSED),
        (404, b"nothing here", FinalHostError, ErrorCode.NOT_A_VM_HOST),
        (302, b"", HostRefusedError, ErrorCode.HOST_ERROR),
        (204, b"", HostRefusedError, ErrorCode.HOST_ERROR),
        (429, b"", HostRefusedError, ErrorCode.HOST_ERROR),
        (500, b"boom", HostRefusedError, ErrorCode.HOST_ERROR),
        (502, b"", OutcomeUnknownError, ErrorCode.CONNECTION_LOST),
        (503, b"", HostUnreachableError, ErrorCode.HOST_UNREACHABLE),
        (504, b"", OutcomeUnknownError, ErrorCode.HOST_TIMEOUT),
    ],
)
def test_statuses_of_a_stop(
    status: int,
    body: object,
    kind: type[HostError],
    code: ErrorCode,
    connect: Connect,
    bounds: CallBounds,
    exchanges: list[Exchange],
) -> None:
    elsewhere = f"Location: http://127.0.0.1:{free_port()}/\r\n"
    with RawHost(answering(http_answer(body, status, headers=elsewhere))) as host:
        driver = connect(host.address)
        with pytest.raises(HostError) as caught:
            driver.force_stop(VM, bounds)
    assert type(caught.value) is kind
    assert caught.value.code is code
    assert caught.value.message.startswith(f"StopVm at {host.address}: ")
    assert len(host.requests) == 1
    assert [exchange.answer[:3] for exchange in exchanges] == [str(status)]


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxy_without_its_host_counts_as_no_answer_to_a_question(
    status: int, connect: Connect, bounds: CallBounds
) -> None:
    with RawHost(answering(http_answer(b"<h1>Bad gateway</h1>", status))) as host:
        driver = connect(host.address)
        with pytest.raises(HostUnreachableError) as caught:
            driver.power_state(VM, bounds)
    assert caught.value.code is ErrorCode.HOST_UNREACHABLE


def test_the_hosts_words_are_told(
    connect: Connect, bounds: CallBounds, exchanges: list[Exchange]
) -> None:
    text = "Failed to stop VM: Server returned error: Missing kill tx for process"
    body = json.dumps({"error": text}, indent=2).encode()
    with RawHost(answering(http_answer(body, 400))) as host:
        driver = connect(host.address)
        with pytest.raises(HostRefusedError, match=re.escape(text)):
            driver.force_stop(VM, bounds)
    assert exchanges[0].answer == f'400 {{ "error": "{text}" }}'


def test_what_postgresql_refuses_is_made_printable(
    connect: Connect, bounds: CallBounds, exchanges: list[Exchange]
) -> None:
    body = b'{"error": "a\\u0000b\\u001bc\\ud800d \x00 \xff' + b"x" * 5_000 + b'"}'
    with RawHost(answering(http_answer(body, 400))) as host:
        driver = connect(host.address)
        with pytest.raises(HostRefusedError) as caught:
            driver.force_stop(VM, bounds)
    for text in (caught.value.message, exchanges[0].answer):
        assert text.isprintable()
        assert text.encode()
        assert len(text) < 700


@pytest.mark.parametrize("vm_uuid", ["", "a/b", "..", "a b", "x" * 65, "ä", "a\n", "a\x00"])
def test_an_impossible_id_is_never_sent(
    vm_uuid: str, connect: Connect, bounds: CallBounds, exchanges: list[Exchange]
) -> None:
    with RawHost(answering(http_answer(None))) as host:
        driver = connect(host.address)
        for call in (driver.power_state, driver.force_stop):
            with pytest.raises(FinalHostError) as caught:
                call(vm_uuid, bounds)
            assert caught.value.code is ErrorCode.BAD_VM_ID
    assert host.accepted == 0
    assert exchanges == []


def test_past_its_deadline_nothing_is_sent(connect: Connect, exchanges: list[Exchange]) -> None:
    bounds = CallBounds(deadline=time.monotonic(), record=exchanges.append)
    with RawHost(answering(http_answer(None))) as host:
        driver = connect(host.address)
        for call in (driver.power_state, driver.force_stop):
            with pytest.raises(OutOfTimeError):
                call(VM, bounds)
    assert host.accepted == 0
    assert exchanges == []


@pytest.mark.parametrize("status", [200, 500])
def test_a_huge_answer_is_left_unread(status: int, connect: Connect, bounds: CallBounds) -> None:
    def behave(peer: Peer) -> None:
        peer.read_request()
        peer.send(f"HTTP/1.1 {status} X\r\nContent-Length: {1 << 40}\r\n\r\n".encode())
        while True:  # until the driver closes
            peer.send(b" " * 65_536)

    with RawHost(behave) as host:
        driver = connect(host.address)
        with pytest.raises(HostRefusedError) as caught:
            driver.power_state(VM, bounds)
    if status == 200:
        assert caught.value.code is ErrorCode.BAD_ANSWER
        assert str(MAX_ANSWER) in caught.value.message
    else:
        assert caught.value.code is ErrorCode.HOST_ERROR


@pytest.mark.parametrize(
    ("credentials", "sent"),
    [
        (HostCredentials(token=SecretStr("tok-123")), "Bearer tok-123"),
        (
            HostCredentials(username="ops", password=SecretStr("p:wörd")),
            "Basic " + base64.b64encode("ops:p:wörd".encode()).decode(),
        ),
        (
            HostCredentials(token=SecretStr("tok"), username="ops", password=SecretStr("pw")),
            "Bearer tok",
        ),
    ],
)
def test_credentials_go_with_every_request(
    credentials: HostCredentials, sent: str, connect: Connect, bounds: CallBounds
) -> None:
    with RawHost(answering(info("running"), http_answer(None))) as host:
        driver = connect(host.address, credentials)
        driver.power_state(VM, bounds)
        driver.force_stop(VM, bounds)
    assert [request.headers["authorization"] for request in host.requests] == [sent, sent]


@pytest.mark.parametrize("status", [200, 400, 401, 500])
@pytest.mark.parametrize(
    ("credentials", "secret"),
    [
        (HostCredentials(token=SecretStr('to"ken-123')), "ken-123"),
        (HostCredentials(username="ops", password=SecretStr("pass-456")), "pass-456"),
    ],
)
def test_a_host_that_sends_credentials_back_exposes_none(
    status: int,
    credentials: HostCredentials,
    secret: str,
    connect: Connect,
    bounds: CallBounds,
    exchanges: list[Exchange],
) -> None:
    basic = base64.b64encode(b"ops:pass-456").decode()
    plain = credentials.token or credentials.password
    assert plain is not None

    def behave(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            echo = {"error": f"{plain.get_secret_value()} {request.headers}"}
            peer.send(http_answer(echo, status))

    with RawHost(behave) as host:
        driver = connect(host.address, credentials)
        with pytest.raises(HostError) as caught:
            driver.power_state(VM, bounds)
    shown = [caught.value.message, repr(caught.value), repr(exchanges), repr(bounds)]
    shown += [repr(driver), repr(vars(driver))]
    assert "[hidden]" in exchanges[0].answer
    assert not any(secret in text or basic in text for text in shown)


def test_unix_socket(tmp_path: Path, connect: Connect, bounds: CallBounds) -> None:
    with RawHost(answering(info("stopped")), unix_path=tmp_path / "vmm.sock") as host:
        driver = connect(host.address, HostCredentials(token=SecretStr("tok")))
        assert driver.power_state(VM, bounds) is PowerState.STOPPED
    (request,) = host.requests
    assert request.headers["host"] == "localhost"
    assert request.headers["authorization"] == "Bearer tok"


def test_path_prefix_is_kept(connect: Connect, bounds: CallBounds) -> None:
    with RawHost(answering(info("running"))) as host:
        connect(f"{host.address}/vmm/one/").power_state(VM, bounds)
    assert host.requests[0].line == "POST /vmm/one/prpc/GetInfo?json HTTP/1.1"


def test_a_question_without_an_answer_counts_as_unreachable(
    connect: Connect, bounds: CallBounds, exchanges: list[Exchange]
) -> None:
    with RawHost(Peer.wait_for_end) as host:
        driver = connect(host.address, query_timeout=0.1)
        with pytest.raises(HostSilentError) as caught:
            driver.power_state(VM, bounds)
        assert caught.value.code is ErrorCode.HOST_TIMEOUT
        assert exchanges[0].answer == caught.value.message
        driver.close()


def test_a_stop_without_an_answer_has_an_unknown_outcome(
    connect: Connect, bounds: CallBounds
) -> None:
    with RawHost(Peer.wait_for_end) as host:
        driver = connect(host.address, stop_timeout=0.1)
        with pytest.raises(OutcomeUnknownError) as caught:
            driver.force_stop(VM, bounds)
    assert caught.value.code is ErrorCode.HOST_TIMEOUT
    assert host.accepted == 1
