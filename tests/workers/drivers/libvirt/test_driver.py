from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from shared.models.errors import ErrorCode
from shared.models.states import PowerState
from workers.drivers.errors import FinalHostError, OutOfTimeError
from workers.drivers.libvirt.driver import SECOND_LOOK
from workers.drivers.protocol import CallBounds


if TYPE_CHECKING:
    from shared.models.turns import Exchange
    from tests.workers.drivers.libvirt.conftest import Connect

NOBODY = "00000000-0000-4000-8000-000000000000"

CRASHED = """
<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
  <name>m</name><memory>8192</memory><os><type>hvm</type></os>
  <test:domainstate><test:runstate>6</test:runstate></test:domainstate>
</domain>
"""


def test_running_and_stopped(
    connect: Connect, bounds: CallBounds, exchanges: list[Exchange], machine: Any
) -> None:
    driver, uuid = connect(), machine.UUIDString()
    assert driver.power_state(uuid, bounds) is PowerState.RUNNING
    driver.force_stop(uuid, bounds)
    assert driver.power_state(uuid, bounds) is PowerState.STOPPED
    assert not machine.isActive()
    assert [(one.request, one.answer) for one in exchanges] == [
        (f'virDomainGetState {{"uuid": "{uuid}"}}', '{"state": "running", "reason": 1}'),
        (f'virDomainDestroy {{"uuid": "{uuid}"}}', "null"),
        (f'virDomainGetState {{"uuid": "{uuid}"}}', '{"state": "shutoff", "reason": 2}'),
    ]


def test_one_that_is_off_already_is_no_error(
    connect: Connect, bounds: CallBounds, exchanges: list[Exchange], machine: Any
) -> None:
    machine.destroy()
    connect().force_stop(machine.UUIDString(), bounds)
    assert "not running" in exchanges[0].answer


def test_paused(connect: Connect, bounds: CallBounds, machine: Any) -> None:
    machine.suspend()
    assert connect().power_state(machine.UUIDString(), bounds) is PowerState.RUNNING


def test_absent(connect: Connect, bounds: CallBounds, exchanges: list[Exchange]) -> None:
    driver = connect()
    assert driver.power_state(NOBODY, bounds) is PowerState.ABSENT
    driver.force_stop(NOBODY, bounds)
    assert driver.seconds_of_doubt(NOBODY, bounds) == SECOND_LOOK
    assert all("Domain not found" in one.answer for one in exchanges)


def test_undefined_while_it_runs(connect: Connect, bounds: CallBounds, machine: Any) -> None:
    driver, uuid = connect(), machine.UUIDString()
    machine.undefine()
    assert driver.power_state(uuid, bounds) is PowerState.RUNNING
    driver.force_stop(uuid, bounds)
    assert driver.power_state(uuid, bounds) is PowerState.ABSENT


def test_crashed_and_kept(
    connect: Connect, bounds: CallBounds, hypervisor: Any, machine: Any
) -> None:
    machine.destroy()
    machine.undefine()
    crashed = hypervisor.defineXML(CRASHED)
    crashed.create()
    driver, uuid = connect(), crashed.UUIDString()
    state = driver.power_state(uuid, bounds)
    assert state in {PowerState.EXITED, PowerState.RUNNING}, "a crashed domain has its memory still"
    driver.force_stop(uuid, bounds)
    assert driver.power_state(uuid, bounds) is PowerState.STOPPED


@pytest.mark.parametrize(
    ("elements", "seconds"),
    [
        ("", SECOND_LOOK),
        ("<on_reboot>restart</on_reboot>", SECOND_LOOK),
        ("<on_crash>restart</on_crash>", 21.0),
        ("<on_crash>coredump-restart</on_crash>", 21.0),
        ("<on_poweroff>rename-restart</on_poweroff>", 21.0),
    ],
)
def test_a_domain_that_is_set_to_restart_is_doubted_longer(
    elements: str,
    seconds: float,
    connect: Connect,
    bounds: CallBounds,
    hypervisor: Any,
    machine: Any,
) -> None:
    machine.destroy()
    machine.undefine()
    inside = f"<name>m</name><memory>8192</memory><os><type>hvm</type></os>{elements}"
    domain = hypervisor.defineXML(f"<domain type='test'>{inside}</domain>")
    assert connect().seconds_of_doubt(domain.UUIDString(), bounds) == seconds


def test_autostart_is_doubted_longer(connect: Connect, bounds: CallBounds, machine: Any) -> None:
    machine.setAutostart(1)
    assert connect().seconds_of_doubt(machine.UUIDString(), bounds) == 21.0


def test_list(connect: Connect, bounds: CallBounds, machine: Any) -> None:
    machine.destroy()
    found = {vm.name: vm for vm in connect().list_vms(bounds)}
    assert found["m"].vm_uuid == machine.UUIDString()
    assert found["m"].power_state is PowerState.STOPPED
    assert found["test"].power_state is PowerState.RUNNING


def test_ping(connect: Connect, bounds: CallBounds) -> None:
    version = connect().ping(bounds)
    assert version.version.startswith("libvirt ")
    assert version.revision.startswith("TEST ")


def test_an_id_that_is_no_uuid(connect: Connect, bounds: CallBounds) -> None:
    with pytest.raises(FinalHostError) as caught:
        connect().power_state("vm-1", bounds)
    assert caught.value.code is ErrorCode.BAD_VM_ID


def test_nothing_is_sent_after_the_deadline(
    connect: Connect, exchanges: list[Exchange], machine: Any
) -> None:
    late = CallBounds(deadline=time.monotonic(), record=exchanges.append)
    with pytest.raises(OutOfTimeError):
        connect().force_stop(machine.UUIDString(), late)
    assert machine.isActive()
    assert exchanges == []


def test_connections_are_kept(connect: Connect, bounds: CallBounds) -> None:
    driver = connect()
    for _ in range(3):
        driver.ping(bounds)
    assert driver._connections.idle == 1
