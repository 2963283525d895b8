"""One turn with one stop on a libvirt host, by the state in which the domain is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from shared.models.errors import ErrorCode
from shared.models.states import PowerState
from shared.models.turns import Claim
from shared.settings import Settings
from tests.workers.drivers.libvirt.test_failures import UUID, MadeUp, driver_on
from workers.drivers.libvirt.driver import SECOND_LOOK
from workers.turns import Turn


if TYPE_CHECKING:
    from shared.models.turns import TurnResult
    from tests.workers.drivers.libvirt.conftest import Connect
    from workers.drivers.libvirt.driver import LibvirtDriver

RUNNING, SHUTDOWN, SHUTOFF, CRASHED = ([1, 1], [4, 1], [5, 2], [6, 1])


@pytest.fixture
def quick() -> Settings:
    return Settings(
        broker_url=SecretStr("redis://127.0.0.1:1"),
        database_url=SecretStr("postgresql://127.0.0.1:1/x"),
        sealing_keys=SecretStr("x"),
        look_seconds=0.2,
        look_interval=0.02,
    )


def take(driver: LibvirtDriver, settings: Settings, uuid: str = UUID) -> TurnResult:
    claim = Claim(
        stop_task_id=uuid4(),
        attempt=1,
        vm_host_id=uuid4(),
        vm_uuid=uuid,
        request_id="test",
        seconds_since_force_stop=None,
    )
    return Turn(driver, claim, settings, began=time.monotonic()).take()


def machine_that(before: list[int], after: list[int]) -> MadeUp:
    """Make up a machine whose state its destroy changes."""
    machine = MadeUp()
    machine.on_state = lambda: after if machine.destroyed else before
    return machine


@pytest.mark.parametrize("pause", [False, True])
def test_one_that_runs_is_stopped_and_looked_at_again(
    pause: bool,  # noqa: FBT001 - a case
    connect: Connect,
    quick: Settings,
    machine: Any,
) -> None:
    if pause:
        machine.suspend()
    result = take(connect(), quick, machine.UUIDString())
    assert (result.is_down, result.force_stopped) == (True, True)
    assert result.look_again_after == SECOND_LOOK
    assert not machine.isActive()


def test_one_that_restarts_is_looked_at_again_later(
    connect: Connect, quick: Settings, machine: Any
) -> None:
    machine.setAutostart(1)
    assert take(connect(), quick, machine.UUIDString()).look_again_after == quick.restart_guard


def test_one_that_is_off_or_absent_is_done(connect: Connect, quick: Settings, machine: Any) -> None:
    machine.destroy()
    for uuid in (machine.UUIDString(), UUID):
        result = take(connect(), quick, uuid)
        assert (result.is_down, result.force_stopped) == (True, False)
        assert result.look_again_after is None


def test_crashed_with_its_process_still_there(connect: Connect, quick: Settings) -> None:
    machine = machine_that(CRASHED, SHUTOFF)
    result = take(driver_on(connect, machine), quick)
    assert (result.is_down, machine.destroyed) == (True, 1)
    assert result.look_again_after == quick.restart_guard


def test_shutting_down_is_destroyed(connect: Connect, quick: Settings) -> None:
    """Its guest is off; with `on_poweroff` restart it would be started again."""
    machine = machine_that(SHUTDOWN, SHUTOFF)
    result = take(driver_on(connect, machine), quick)
    assert (result.is_down, machine.destroyed) == (True, 1)


def test_one_that_never_goes_down_is_not_reported_down(connect: Connect, quick: Settings) -> None:
    machine = machine_that(RUNNING, RUNNING)
    result = take(driver_on(connect, machine), quick)
    assert (result.is_down, machine.destroyed) == (False, 1)
    assert result.failure is not None
    assert result.failure.code is ErrorCode.STILL_RUNNING


def test_shutting_down_for_ever_waits_to_be_confirmed(connect: Connect, quick: Settings) -> None:
    result = take(driver_on(connect, machine_that(SHUTDOWN, SHUTDOWN)), quick)
    assert (result.is_down, result.failure) == (False, None)
    assert result.power_state is PowerState.STOPPING


def test_cut_after_the_destroy_the_state_decides(connect: Connect, quick: Settings) -> None:
    old, new = MadeUp(), MadeUp()
    old.on_destroy = old.cut
    new.on_state = lambda: SHUTOFF
    result = take(driver_on(connect, old, new), quick)
    assert result.is_down
    assert (old.destroyed, new.destroyed) == (1, 0)


def test_started_again_between_destroy_and_look(connect: Connect, quick: Settings) -> None:
    machine = MadeUp()
    states = iter([RUNNING, RUNNING])
    machine.on_state = lambda: next(states, RUNNING)
    result = take(driver_on(connect, machine), quick)
    assert not result.is_down
    assert result.power_state is PowerState.RUNNING
