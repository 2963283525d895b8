"""The driver on a real daemon that is stopped (SIGSTOP) while a connection to it is open."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from shared.models.hosts import HostConnection, HostCredentials
from shared.models.states import PowerState
from tests.support.compose import ROOT
from tests.support.libvirt_host import LibvirtHost, libvirt_host
from tests.support.waiting import eventually
from workers.drivers.errors import HostSilentError, HostUnreachableError, OutcomeUnknownError
from workers.drivers.libvirt.driver import LibvirtDriver
from workers.drivers.protocol import CallBounds


if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = """
import sys, time
from shared.models.hosts import HostConnection, HostCredentials
from workers.drivers.libvirt.driver import LibvirtDriver
from workers.drivers.protocol import CallBounds

host = HostConnection(
    name="h", driver="libvirt", address=sys.argv[1], credentials=HostCredentials()
)
driver = LibvirtDriver(host, connect_timeout=5, query_timeout=5, stop_timeout=5, restart_guard=1)
driver.ping(CallBounds(deadline=time.monotonic() + 30, record=lambda _: None))
print("ready", driver._connections.idle, flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def host() -> Iterator[LibvirtHost]:
    with libvirt_host() as made:
        yield made


@pytest.fixture
def driver(host: LibvirtHost) -> Iterator[LibvirtDriver]:
    connection = HostConnection(
        name="host-1", driver="libvirt", address=host.uri, credentials=HostCredentials()
    )
    made = LibvirtDriver(
        connection, connect_timeout=5, query_timeout=1, stop_timeout=1, restart_guard=21
    )
    yield made
    made.close()


def bounds() -> CallBounds:
    return CallBounds(deadline=time.monotonic() + 30, record=lambda _: None)


def test_calls_that_were_given_up_end_by_keepalive(
    host: LibvirtHost, driver: LibvirtDriver
) -> None:
    (machine,) = host.start_machines(1)
    assert driver.power_state(machine, bounds()) is PowerState.RUNNING
    host.signal_libvirtd(signal.SIGSTOP)
    try:
        with pytest.raises(HostSilentError):
            driver.power_state(machine, bounds())
        assert driver.hanging_calls == 1
        # The daemon is stopped still.
        eventually(lambda: driver.hanging_calls == 0 or driver._connections.hangs, timeout=60)
    finally:
        host.signal_libvirtd(signal.SIGCONT)
    eventually(lambda: driver.hanging_calls == 0)
    assert driver.power_state(machine, bounds()) is PowerState.RUNNING


def test_a_destroy_is_not_sent_by_who_was_given_up(
    host: LibvirtHost, driver: LibvirtDriver
) -> None:
    (machine,) = host.start_machines(1)
    driver.power_state(machine, bounds())
    host.signal_libvirtd(signal.SIGSTOP)
    try:
        with pytest.raises((HostSilentError, HostUnreachableError)) as caught:
            driver.force_stop(machine, bounds())
        assert not isinstance(caught.value, OutcomeUnknownError)
    finally:
        host.signal_libvirtd(signal.SIGCONT)
    eventually(lambda: driver.hanging_calls == 0)
    assert driver.power_state(machine, bounds()) is PowerState.RUNNING


def test_a_daemon_that_was_started_again_is_found_again(
    host: LibvirtHost, driver: LibvirtDriver
) -> None:
    (machine,) = host.start_machines(1)
    driver.power_state(machine, bounds())
    host.kill_libvirtd()
    with pytest.raises(HostUnreachableError):
        driver.power_state(machine, bounds())
    host.start_libvirtd()
    assert driver.power_state(machine, bounds()) is PowerState.RUNNING
    driver._stop_timeout = 20.0
    driver.force_stop(machine, bounds())
    assert driver.power_state(machine, bounds()) is PowerState.STOPPED


def test_a_kept_connection_keeps_no_process_from_ending(host: LibvirtHost) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, host.uri],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline().strip() == "ready 1"
            host.signal_libvirtd(signal.SIGSTOP)
            process.stdin.write("end\n")
            process.stdin.flush()
            assert process.wait(10) == 0
        finally:
            host.signal_libvirtd(signal.SIGCONT)
            process.kill()


def test_what_is_listed_is_what_runs(host: LibvirtHost, driver: LibvirtDriver) -> None:
    (machine,) = host.start_machines(1)
    found = {vm.vm_uuid: vm.power_state for vm in driver.list_vms(bounds())}
    assert found[machine] is PowerState.RUNNING
