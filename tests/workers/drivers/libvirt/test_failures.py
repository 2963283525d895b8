"""Errors that only a broken connection or an unusual daemon gives, on a connection made up."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import libvirt
import pytest
from pydantic import SecretStr

from shared.models.errors import ErrorCode, Fate
from shared.models.hosts import HostCredentials
from shared.models.states import PowerState
from tests.support.waiting import eventually
from workers.drivers.errors import (
    FinalHostError,
    HostError,
    HostRefusedError,
    HostSilentError,
    HostUnreachableError,
    OutcomeUnknownError,
    OutOfTimeError,
)
from workers.drivers.libvirt.bounded_calls import MOST_GIVEN_UP
from workers.drivers.libvirt.connections import LibvirtConnections
from workers.drivers.libvirt.driver import MOST_LISTS_GIVEN_UP, LibvirtDriver
from workers.drivers.libvirt.failures import FROM_RPC, Code, explain_open
from workers.drivers.libvirt.library import LibraryError


if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.workers.drivers.libvirt.conftest import Connect
    from workers.drivers.protocol import CallBounds

UUID = "00000000-0000-4000-8000-000000000001"

INTERNAL = 1
OPERATION_TIMEOUT = 68
FROM_QEMU = 10


def libvirt_error(code: int, domain: int, text: str) -> libvirt.libvirtError:
    error = libvirt.libvirtError(text)
    error.err = (code, domain, text, 2, None, None, None, 0, 0)
    return error


class MadeUp:
    """A connection and its only domain."""

    def __init__(self) -> None:
        self.alive = True
        self.closed = False
        self.destroyed = 0
        self.asked = 0
        self.on_state: Callable[[], Any] = lambda: [1, 1]
        self.on_destroy: Callable[[], Any] = lambda: 0
        self.on_list: Callable[[], Any] = list

    def lookupByUUIDString(self, uuid: str) -> MadeUp:  # noqa: N802 - libvirt's name
        assert uuid == UUID
        return self

    def state(self) -> Any:
        self.asked += 1
        return self.on_state()

    def getAllDomainStats(self, _stats: int) -> Any:  # noqa: N802 - libvirt's name
        return self.on_list()

    def destroy(self) -> Any:
        self.destroyed += 1
        return self.on_destroy()

    def ID(self) -> int:  # noqa: N802 - libvirt's name
        return 1

    def isPersistent(self) -> bool:  # noqa: N802 - libvirt's name
        return True

    def autostart(self) -> bool:
        return False

    def XMLDesc(self) -> str:  # noqa: N802 - libvirt's name
        return "<domain/>"

    def isAlive(self) -> bool:  # noqa: N802 - libvirt's name
        return self.alive

    def isActive(self) -> bool:  # noqa: N802 - libvirt's name
        return True

    def close(self) -> None:
        self.closed = True

    def cut(self) -> Any:
        self.alive = False
        raise libvirt_error(38, FROM_RPC, "Cannot recv data: Connection reset by peer")


def driver_on(connect: Connect, *connections: MadeUp, **timeouts: float) -> LibvirtDriver:
    driver = connect(**timeouts)
    left = iter(connections)
    made_up = LibvirtConnections(driver._library, lambda: next(left))
    driver._connections = driver._calls._connections = made_up
    return driver


def test_a_domain_that_has_migrated_away_is_not_down(connect: Connect, bounds: CallBounds) -> None:
    """It is off here, with a reason of its own, and runs elsewhere."""
    gone = MadeUp()
    gone.on_state = lambda: [5, 4]
    with pytest.raises(FinalHostError) as caught:
        driver_on(connect, gone).power_state(UUID, bounds)
    assert caught.value.code is ErrorCode.MIGRATED_AWAY


def test_a_question_is_asked_again_on_a_new_connection(
    connect: Connect, bounds: CallBounds
) -> None:
    old, new = MadeUp(), MadeUp()
    driver = driver_on(connect, old, new)
    driver.power_state(UUID, bounds)
    old.on_state = old.cut
    assert driver.power_state(UUID, bounds) is PowerState.RUNNING
    assert (old.asked, new.asked, old.closed) == (2, 1, True)


def test_a_question_on_a_new_connection_is_not_repeated(
    connect: Connect, bounds: CallBounds
) -> None:
    only = MadeUp()
    only.on_state = only.cut
    with pytest.raises(HostSilentError) as caught:
        driver_on(connect, only).power_state(UUID, bounds)
    assert caught.value.code is ErrorCode.CONNECTION_LOST


def test_a_destroy_whose_connection_is_cut_is_never_repeated(
    connect: Connect, bounds: CallBounds
) -> None:
    old, new = MadeUp(), MadeUp()
    driver = driver_on(connect, old, new)
    driver.power_state(UUID, bounds)
    old.on_destroy = old.cut
    with pytest.raises(OutcomeUnknownError) as caught:
        driver.force_stop(UUID, bounds)
    assert caught.value.code is ErrorCode.CONNECTION_LOST
    assert (old.destroyed, new.destroyed) == (1, 0)


@pytest.mark.parametrize(
    ("code", "kind", "named"),
    [
        (Code.OPERATION_DENIED, FinalHostError, ErrorCode.CREDENTIALS_REFUSED),
        (Code.ACCESS_DENIED, FinalHostError, ErrorCode.CREDENTIALS_REFUSED),
        (OPERATION_TIMEOUT, HostRefusedError, ErrorCode.HOST_ERROR),
        (Code.OPERATION_INVALID, HostRefusedError, ErrorCode.HOST_ERROR),
        (INTERNAL, HostRefusedError, ErrorCode.HOST_ERROR),
    ],
)
def test_a_destroy_that_is_answered_with_an_error(
    code: int, kind: type[HostError], named: ErrorCode, connect: Connect, bounds: CallBounds
) -> None:
    host = MadeUp()

    def refuse() -> None:
        raise libvirt_error(code, FROM_QEMU, "no")

    host.on_destroy = refuse
    driver = driver_on(connect, host)
    with pytest.raises(kind) as caught:
        driver.force_stop(UUID, bounds)
    assert caught.value.code is named
    assert driver._connections.idle == 1, "the connection is well"


def test_calls_that_hang_are_given_up_and_bounded(connect: Connect, bounds: CallBounds) -> None:
    go_on = threading.Event()
    hosts = [MadeUp() for _ in range(MOST_GIVEN_UP + 1)]
    for host in hosts:
        host.on_state = lambda: [1, 1] if go_on.wait(60) else None
    driver = driver_on(connect, *hosts, query_timeout=0.05)
    for _ in range(MOST_GIVEN_UP):
        with pytest.raises(HostSilentError) as silent:
            driver.power_state(UUID, bounds)
        assert silent.value.code is ErrorCode.HOST_TIMEOUT
    with pytest.raises(HostUnreachableError, match="16 calls to the host hang already"):
        driver.power_state(UUID, bounds)
    assert driver.hanging_calls == MOST_GIVEN_UP
    go_on.set()
    eventually(lambda: driver.hanging_calls == 0)
    assert driver._connections.idle == 8
    assert sum(host.closed for host in hosts) == MOST_GIVEN_UP - 8
    assert driver.power_state(UUID, bounds) is PowerState.RUNNING


def test_waiting_for_a_connection_says_nothing_of_the_host(
    connect: Connect, bounds: CallBounds
) -> None:
    """Connections are made one by one: who waits for the others' has not asked anything."""
    go_on = threading.Event()
    driver = connect(query_timeout=0.1, connect_timeout=60)
    slow = LibvirtConnections(driver._library, lambda: go_on.wait(60) and MadeUp())
    driver._connections = driver._calls._connections = slow
    connecting = threading.Thread(target=lambda: driver.force_stop(UUID, bounds), daemon=True)
    connecting.start()
    eventually(lambda: slow._connecting is not None)
    with pytest.raises(OutOfTimeError, match="no connection became free"):
        driver.power_state(UUID, bounds)
    go_on.set()
    connecting.join(10)


def test_lists_that_hang_leave_stops_their_places(connect: Connect, bounds: CallBounds) -> None:
    """A list waits for each domain, also for one that the daemon is stuck with."""
    go_on = threading.Event()
    hosts = [MadeUp() for _ in range(MOST_LISTS_GIVEN_UP + 1)]
    for host in hosts:
        host.on_list = lambda: go_on.wait(60) and []
    driver = driver_on(connect, *hosts, query_timeout=0.05)
    driver._lists._connections = driver._connections
    for _ in range(MOST_LISTS_GIVEN_UP):
        with pytest.raises(HostSilentError):
            driver.list_vms(bounds)
    with pytest.raises(HostUnreachableError, match="2 calls to the host hang already"):
        driver.list_vms(bounds)
    assert driver.power_state(UUID, bounds) is PowerState.RUNNING
    go_on.set()
    eventually(lambda: driver.hanging_calls == 0)


def test_a_destroy_that_hangs_has_an_unknown_outcome(connect: Connect, bounds: CallBounds) -> None:
    go_on = threading.Event()
    host = MadeUp()
    host.on_destroy = lambda: go_on.wait(60)
    driver = driver_on(connect, host, stop_timeout=0.05)
    with pytest.raises(OutcomeUnknownError) as caught:
        driver.force_stop(UUID, bounds)
    assert caught.value.code is ErrorCode.HOST_TIMEOUT
    go_on.set()
    eventually(lambda: driver.hanging_calls == 0)


def test_a_destroy_that_was_given_up_before_is_not_sent(
    connect: Connect, bounds: CallBounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    host = MadeUp()
    looked_up = host.lookupByUUIDString
    monkeypatch.setattr(
        host, "lookupByUUIDString", lambda uuid: looked_up(uuid) if go_on.wait(60) else None
    )
    driver = driver_on(connect, host, stop_timeout=0.05)
    with pytest.raises(HostSilentError):
        driver.force_stop(UUID, bounds)
    go_on.set()
    eventually(lambda: driver.hanging_calls == 0)
    assert host.destroyed == 0


@pytest.mark.parametrize(
    ("code", "domain", "text", "fate", "named"),
    [
        (Code.AUTH_FAILED, FROM_RPC, "no", Fate.FINAL, ErrorCode.CREDENTIALS_REFUSED),
        (Code.AUTH_CANCELLED, 0, "no", Fate.FINAL, ErrorCode.CREDENTIALS_REFUSED),
        (
            Code.AUTH_FAILED,
            FROM_RPC,
            "Failed to verify peer's certificate",
            Fate.UNREACHABLE,
            ErrorCode.HOST_UNREACHABLE,
        ),
        (Code.NO_CONNECT, 0, "no", Fate.FINAL, ErrorCode.NOT_A_VM_HOST),
        (Code.INVALID_ARG, FROM_RPC, "no", Fate.FINAL, ErrorCode.BAD_HOST_CONFIGURATION),
        (38, FROM_RPC, "refused", Fate.UNREACHABLE, ErrorCode.HOST_UNREACHABLE),
        (INTERNAL, 0, "no", Fate.TRANSIENT, ErrorCode.HOST_ERROR),
    ],
)
def test_a_connection_that_does_not_come_about(
    code: int, domain: int, text: str, fate: Fate, named: ErrorCode
) -> None:
    error = explain_open("a call", LibraryError(code, domain, text), text)
    assert (error.fate, error.code) == (fate, named)


def test_a_password_that_is_sent_back_is_hidden(connect: Connect, bounds: CallBounds) -> None:
    credentials = HostCredentials(username="u", password=SecretStr("hunter-two"))
    driver = connect(credentials=credentials)

    def refuse() -> Any:
        raise LibraryError(Code.AUTH_FAILED, FROM_RPC, "wrong: hunter-two")

    refusing = LibvirtConnections(driver._library, refuse)
    driver._connections = driver._calls._connections = refusing
    with pytest.raises(FinalHostError) as caught:
        driver.ping(bounds)
    assert "hunter-two" not in caught.value.message
    assert "[hidden]" in caught.value.message
