"""One turn with one stop, on a real (simulated) host."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from shared.models.errors import ErrorCode, Fate
from shared.models.hosts import HostConnection, HostCredentials
from shared.models.states import PowerState
from shared.models.turns import Claim
from tests.support.simulated_host import simulated_host
from workers.drivers.registry import Drivers
from workers.turns import Turn


if TYPE_CHECKING:
    from shared.models.turns import TurnResult
    from shared.settings import Settings
    from tests.support.simulated_host import SimulatedHost


@pytest.fixture
def quick(settings: Settings) -> Settings:
    """Settings with which a turn that sees nothing happen ends soon."""
    return settings.model_copy(
        update={
            "look_seconds": 0.4,
            "look_interval": 0.02,
            "host_connect_timeout": 0.5,
            "host_query_timeout": 0.5,
            "host_stop_timeout": 0.7,
        }
    )


def take(
    settings: Settings,
    host: SimulatedHost,
    vm_id: str,
    *,
    since: float | None = None,
    held_up: float = 0.0,
) -> TurnResult:
    """Take a turn with one VM, as a worker would."""
    claim = Claim(
        stop_task_id=uuid4(),
        attempt=1,
        vm_host_id=uuid4(),
        vm_uuid=vm_id,
        request_id="test",
        seconds_since_force_stop=since,
    )
    began = time.monotonic() - held_up
    drivers = Drivers(settings)
    connection = HostConnection(
        name="node", driver="dstack", address=host.url, credentials=HostCredentials()
    )
    try:
        return Turn(drivers.get(connection), claim, settings, began=began).take()
    finally:
        drivers.close()


def force_stops(host: SimulatedHost, vm_id: str) -> int:
    return len(host.log(method="StopVm", vm_id=vm_id))


class TestByState:
    """The state in which the host reports the VM when the turn begins."""

    def test_running(self, quick: Settings) -> None:
        with simulated_host(vms=1) as host:
            vm = host.vm_ids[0]
            result = take(quick, host, vm)
            assert result.is_down
            assert result.look_again_after is None
            assert (result.power_state, result.force_stopped) == (PowerState.STOPPED, True)
            assert force_stops(host, vm) == 1
            assert [each.request.split()[0] for each in result.exchanges][:2] == [
                "GetInfo",
                "StopVm",
            ]

    @pytest.mark.parametrize("status", ["stopped", "unknown to the host"])
    def test_down_already(self, quick: Settings, status: str) -> None:
        with simulated_host(vms=1) as host:
            vm = host.vm_ids[0]
            if status == "stopped":
                host.change_vm(vm, status="stopped")
            else:
                vm = str(uuid4())
            result = take(quick, host, vm)
            assert result.is_down
            assert not result.force_stopped
            assert force_stops(host, vm) == 0

    def test_exited_is_stopped_and_doubted_for_one_restart_interval(self, quick: Settings) -> None:
        with simulated_host(vms=1) as host:
            vm = host.vm_ids[0]
            host.change_vm(vm, status="exited")
            result = take(quick, host, vm)
            assert force_stops(host, vm) == 1
            assert result.is_down
            assert result.look_again_after == quick.restart_guard

    def test_removing_is_waited_for(self, quick: Settings) -> None:
        with simulated_host(vms=1, remove_seconds=60) as host:
            vm = host.vm_ids[0]
            host.rpc("RemoveVm", id=vm)
            result = take(quick, host, vm)
            assert not result.is_down
            assert result.failure is None
            assert force_stops(host, vm) == 0

    def test_stopping_for_ever_is_sent_another_one(self, quick: Settings) -> None:
        """Race 1 of the facts: the stop met the start, and nothing is killing the VM."""
        with simulated_host(vms=1) as host:
            vm = host.vm_ids[0]
            host.change_vm(vm, status="stopping")
            result = take(quick, host, vm)
            assert result.is_down
            assert force_stops(host, vm) == 1

    def test_a_kill_under_way_is_not_repeated_too_soon(self, quick: Settings) -> None:
        with simulated_host(vms=1, never_stops=True) as host:
            vm = host.vm_ids[0]
            host.rpc("StopVm", id=vm)
            result = take(quick, host, vm, since=1.0)
            assert force_stops(host, vm) == 1
            assert (result.is_down, result.failure) == (False, None)

    def test_a_kill_under_way_for_long_is_repeated_and_its_400_is_no_failure(
        self, quick: Settings
    ) -> None:
        with simulated_host(vms=1, never_stops=True) as host:
            vm = host.vm_ids[0]
            host.rpc("StopVm", id=vm)
            result = take(quick, host, vm, since=quick.reissue_after)
            assert force_stops(host, vm) == 2
            assert any("Missing kill tx" in each.answer for each in result.exchanges)
            assert (result.is_down, result.failure) == (False, None)


class TestRaces:
    def test_slow_to_die(self, quick: Settings) -> None:
        with simulated_host(vms=1, stop_seconds=60) as host:
            result = take(quick, host, host.vm_ids[0])
            assert not result.is_down
            assert result.failure is None
            assert result.force_stopped
            assert result.power_state is PowerState.STOPPING

    def test_running_again_after_the_200(self, quick: Settings) -> None:
        """Race 2 of the facts: an auto-restart that was under way undoes the stop."""
        with simulated_host(vms=1, undone_stops=1) as host:
            result = take(quick, host, host.vm_ids[0])
            assert not result.is_down
            assert result.failure is not None
            assert result.failure.code is ErrorCode.STILL_RUNNING
            assert result.failure.fate is Fate.TRANSIENT

    def test_one_force_stop_a_turn_at_most(self, quick: Settings) -> None:
        with simulated_host(vms=1, undone_stops=5) as host:
            take(quick, host, host.vm_ids[0])
            assert force_stops(host, host.vm_ids[0]) == 1


class TestErrors:
    @pytest.mark.parametrize(
        ("fault", "code", "fate"),
        [
            ({"kind": "error", "text": "no"}, ErrorCode.HOST_ERROR, Fate.TRANSIENT),
            ({"kind": "http", "status": 500}, ErrorCode.HOST_ERROR, Fate.TRANSIENT),
            ({"kind": "unauthorized"}, ErrorCode.CREDENTIALS_REFUSED, Fate.FINAL),
            ({"kind": "hang"}, ErrorCode.HOST_TIMEOUT, Fate.UNKNOWN),
        ],
    )
    def test_of_stop_vm_while_the_vm_runs_on(
        self, quick: Settings, fault: dict[str, Any], code: ErrorCode, fate: Fate
    ) -> None:
        with simulated_host(vms=1, faults=[{**fault, "methods": ["StopVm"]}]) as host:
            result = take(quick, host, host.vm_ids[0])
            assert not result.is_down
            assert result.failure is not None
            assert (result.failure.code, result.failure.fate) == (code, fate)

    @pytest.mark.parametrize("kind", ["hang", "cut", "garbage", "error"])
    def test_of_stop_vm_that_was_carried_out(self, quick: Settings, kind: str) -> None:
        """An error does not mean that nothing was killed: the state is read again."""
        fault = {"kind": kind, "methods": ["StopVm"], "carried_out": True}
        with simulated_host(vms=1, faults=[fault]) as host:
            result = take(quick, host, host.vm_ids[0])
            assert result.is_down
            assert result.failure is None

    def test_unreachable(self, quick: Settings) -> None:
        with simulated_host(vms=1) as host:
            host.stop()
            result = take(quick, host, host.vm_ids[0])
            assert result.failure is not None
            assert result.failure.fate is Fate.UNREACHABLE
            assert not result.force_stopped

    def test_a_black_hole(self, quick: Settings) -> None:
        with simulated_host(vms=1, dead=True) as host:
            result = take(quick, host, host.vm_ids[0])
            assert result.failure is not None
            assert result.failure.fate is Fate.UNREACHABLE

    def test_a_host_that_goes_away_after_the_force_stop(self, quick: Settings) -> None:
        fault = {"kind": "hang", "methods": ["StopVm"], "carried_out": True}
        with simulated_host(vms=1, stop_seconds=60, faults=[fault]) as host:
            result = take(quick, host, host.vm_ids[0])
            assert result.force_stopped
            assert result.power_state is PowerState.STOPPING

    def test_an_impossible_vm_id_is_never_sent(self, quick: Settings) -> None:
        with simulated_host(vms=1) as host:
            result = take(quick, host, "../../etc")
            assert result.failure is not None
            assert result.failure.code is ErrorCode.BAD_VM_ID
            assert host.log() == []

    def test_a_worker_that_was_held_up_past_its_limit_sends_nothing(self, quick: Settings) -> None:
        """It may have lost its lease: another worker may have the stop (I4)."""
        with simulated_host(vms=1) as host:
            result = take(quick, host, host.vm_ids[0], held_up=quick.turn_limit)
            assert result.failure is not None
            assert host.log() == []
            assert host.status(host.vm_ids[0]) == "running"

    def test_a_fault_of_our_own_keeps_what_was_sent(
        self, quick: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> None:
            msg = "a bug"
            raise ZeroDivisionError(msg)

        monkeypatch.setattr(Turn, "_look_until_down", broken)
        with simulated_host(vms=1) as host:
            result = take(quick, host, host.vm_ids[0])
        assert result.failure is not None
        assert result.failure.code is ErrorCode.INTERNAL
        assert result.force_stopped
        assert "StopVm" in [each.request.split()[0] for each in result.exchanges]
