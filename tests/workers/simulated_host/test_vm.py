from __future__ import annotations

from typing import Any

import pytest

from workers.simulated_host.behaviour import Behaviour, VmStatus
from workers.simulated_host.vm import RefusedError, Vm


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Clock, status: str = "running", *, launched: bool = True, **fields: Any) -> Vm:
    behaviour = Behaviour.model_validate({"stop_seconds": 5, **fields})
    return Vm(status=VmStatus(status), behaviour=behaviour, clock=clock, launched=launched)


@pytest.mark.parametrize(
    ("started", "process", "status"),
    [
        (True, True, "running"),
        (True, False, "exited"),
        (False, True, "stopping"),
        (False, False, "stopped"),
    ],
)
def test_status_follows_flag_and_process(
    clock: Clock, *, started: bool, process: bool, status: str
) -> None:
    vm = make(clock, status)
    assert (vm.started, vm.process, vm.status()) == (started, process, status)


def test_stop_kills_and_takes_its_time(clock: Clock) -> None:
    vm = make(clock)
    assert vm.stop() == 0
    assert vm.status() == "stopping"
    clock.now += 4.9
    assert vm.status() == "stopping"
    clock.now += 0.2
    assert vm.status() == "stopped"
    assert (vm.kills, vm.exited_at) == (1, 105.0)


def test_stop_of_a_stopped_vm_is_fine(clock: Clock) -> None:
    vm = make(clock, "stopped")
    vm.stop()
    assert (vm.status(), vm.kills) == ("stopped", 0)


def test_stop_during_a_kill_is_refused(clock: Clock) -> None:
    vm = make(clock)
    vm.stop()
    with pytest.raises(RefusedError, match=r"^Server returned error: Missing kill tx for process$"):
        vm.stop()
    assert vm.kills == 1


def test_stop_of_an_exited_vm_clears_the_flag(clock: Clock) -> None:
    vm = make(clock, "exited", auto_restart_seconds=20)
    vm.stop()
    clock.now += 100
    assert (vm.status(), vm.kills) == ("stopped", 0)


def test_stop_of_a_vm_never_launched(clock: Clock) -> None:
    make(clock, "stopped", launched=False).stop()
    vm = make(clock, "stopped", launched=False)
    vm.start()
    vm.behaviour = Behaviour(start_seconds=9)
    with pytest.raises(RefusedError, match="Process not found"):
        vm.stop(refuse_unlaunched=True)
    assert not vm.started


def test_blocking_stop_ends_with_the_process_gone(clock: Clock) -> None:
    vm = make(clock, stop_seconds=0, blocking_stop_seconds=15)
    assert vm.stop() == 15
    clock.now += 14
    assert vm.status() == "stopping"
    clock.now += 1
    assert vm.status() == "stopped"
    assert vm.stop() == 0


def test_stop_during_start_leaves_it_stopping_for_ever(clock: Clock) -> None:
    """Race 1: only another StopVm ends it."""
    vm = make(clock, "stopped", start_seconds=2)
    vm.start()
    assert vm.status() == "exited"
    vm.stop()
    assert (vm.status(), vm.kills) == ("stopped", 0)
    clock.now += 3600
    assert vm.status() == "stopping"
    vm.stop()
    clock.now += 5
    assert (vm.status(), vm.kills) == ("stopped", 1)


def test_vm_placed_stopping_is_what_race_1_leaves(clock: Clock) -> None:
    vm = make(clock, "stopping")
    clock.now += 3600
    assert vm.status() == "stopping"
    vm.stop()
    clock.now += 5
    assert vm.status() == "stopped"


def test_stop_undone_by_auto_restart(clock: Clock) -> None:
    """Race 2: the VM runs again, once, after a StopVm that was answered with 200."""
    vm = make(clock, "exited", undone_stops=1, undone_after=1)
    vm.stop()
    assert vm.status() == "stopped"
    clock.now += 1
    assert (vm.status(), vm.started) == ("running", True)
    vm.stop()
    clock.now += 60
    assert vm.status() == "stopped"


def test_stop_undone_while_the_process_lives(clock: Clock) -> None:
    vm = make(clock, undone_stops=1)
    vm.stop()
    clock.now += 60
    assert vm.status() == "running"


def test_exited_vm_is_restarted(clock: Clock) -> None:
    vm = make(clock, "exited", auto_restart_seconds=20)
    clock.now += 19
    assert vm.status() == "exited"
    clock.now += 1
    assert vm.status() == "running"


def test_exited_vm_stays_so_without_auto_restart(clock: Clock) -> None:
    vm = make(clock, "exited")
    clock.now += 3600
    assert vm.status() == "exited"


def test_vm_that_never_stops_until_it_may(clock: Clock) -> None:
    vm = make(clock, never_stops=True)
    vm.stop()
    clock.now += 8000
    assert vm.status() == "stopping"
    vm.behaviour = Behaviour(stop_seconds=5)
    assert vm.status() == "stopped"


def test_vm_comes_back_after_it_was_seen_stopped(clock: Clock) -> None:
    vm = make(clock, comebacks=1, comeback_after=3)
    vm.stop()
    clock.now += 60
    assert vm.status() == "stopped"  # the control endpoint's look does not count
    clock.now += 60
    assert vm.look() == "stopped"
    clock.now += 3
    assert vm.look() == "running"
    vm.stop()
    clock.now += 5
    assert vm.look() == "stopped"
    clock.now += 60
    assert vm.look() == "stopped"


def test_start_while_stopping_ends_exited(clock: Clock) -> None:
    vm = make(clock)
    vm.stop()
    vm.start()
    assert vm.status() == "running"
    clock.now += 5
    assert vm.status() == "exited"


def test_start_of_a_running_vm_changes_nothing(clock: Clock) -> None:
    vm = make(clock)
    vm.start()
    clock.now += 60
    assert (vm.status(), vm.launched_at) == ("running", 100.0)


def test_shutdown_is_the_guests_business(clock: Clock) -> None:
    vm = make(clock, shutdown_seconds=30)
    vm.shut_down()
    assert vm.status() == "stopping"
    clock.now += 30
    assert (vm.status(), vm.kills) == ("stopped", 0)
    with pytest.raises(RefusedError):
        vm.shut_down()


def test_stop_during_shutdown_kills(clock: Clock) -> None:
    vm = make(clock, shutdown_seconds=30)
    vm.shut_down()
    vm.stop()
    clock.now += 5
    assert (vm.status(), vm.kills) == ("stopped", 1)


def test_removal_waits_for_the_process(clock: Clock) -> None:
    vm = make(clock, remove_seconds=2)
    vm.remove()
    vm.remove()
    assert (vm.status(), vm.kills) == ("removing", 1)
    clock.now += 5
    assert (vm.status(), vm.gone) == ("removing", False)
    with pytest.raises(RefusedError, match=r"^VM is being removed$"):
        vm.start()
    clock.now += 2
    assert vm.gone


@pytest.mark.parametrize("status", ["stopped", "exited", "removing"])
def test_removal_from_other_states(clock: Clock, status: str) -> None:
    vm = make(clock, status, auto_restart_seconds=1)
    vm.remove()
    assert vm.status() == "removing"
    clock.now += 5
    assert vm.gone


def test_stop_does_not_look_at_removal(clock: Clock) -> None:
    vm = make(clock, remove_seconds=60)
    vm.remove()
    with pytest.raises(RefusedError, match="Missing kill tx"):
        vm.stop()
    clock.now += 5
    vm.stop()
    assert vm.status() == "removing"
