"""The driver against the simulated host, which speaks as dstack-vmm does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from shared.models.errors import ErrorCode, Fate
from shared.models.hosts import HostCredentials
from shared.models.states import PowerState
from tests.support.simulated_host import simulated_host
from workers.drivers.errors import FinalHostError, HostError, HostRefusedError


if TYPE_CHECKING:
    from shared.models.turns import Exchange
    from tests.workers.drivers.conftest import Connect
    from workers.drivers.protocol import CallBounds


@pytest.mark.parametrize("version", ["0.5.11", "0.6.0"])
@pytest.mark.parametrize("unix", [False, True])
def test_a_stop_from_running_to_stopped(
    version: str,
    unix: bool,  # noqa: FBT001 (a parameter of the test)
    connect: Connect,
    bounds: CallBounds,
    exchanges: list[Exchange],
) -> None:
    with simulated_host(version=version, unix=unix) as host:
        driver = connect(host.url)
        vm = host.vm_ids[0]
        assert driver.power_state(vm, bounds) is PowerState.RUNNING
        driver.force_stop(vm, bounds)
        host.wait_for_status(vm, "stopped")
        assert driver.power_state(vm, bounds) is PowerState.STOPPED
        assert [entry["method"] for entry in host.log()] == ["GetInfo", "StopVm", "GetInfo"]
        driver.close()
    assert exchanges[1].answer == "200 null"


@pytest.mark.parametrize("word", ["running", "exited", "stopping", "stopped", "removing"])
def test_every_state(word: str, connect: Connect, bounds: CallBounds) -> None:
    with simulated_host(vms=0) as host:
        vm = host.add_vm(status=word, remove_seconds=60.0, never_stops=True)
        assert connect(host.url).power_state(vm, bounds) == PowerState(word)


def test_unknown_vm(connect: Connect, bounds: CallBounds) -> None:
    with simulated_host() as host:
        driver = connect(host.url)
        assert driver.power_state("no-such-vm", bounds) is PowerState.ABSENT
        with pytest.raises(HostRefusedError, match="Failed to stop VM") as caught:
            driver.force_stop("no-such-vm", bounds)
    assert caught.value.code is ErrorCode.HOST_ERROR


def test_a_repeated_stop_is_refused(connect: Connect, bounds: CallBounds) -> None:
    with simulated_host(never_stops=True) as host:
        driver = connect(host.url)
        driver.force_stop(host.vm_ids[0], bounds)
        with pytest.raises(HostRefusedError, match="Missing kill tx for process"):
            driver.force_stop(host.vm_ids[0], bounds)


def test_list_and_ping(connect: Connect, bounds: CallBounds) -> None:
    with simulated_host(vms=1_000) as host:
        driver = connect(host.url)
        assert [vm.vm_uuid for vm in driver.list_vms(bounds)] == host.vm_ids
        assert "0.6.0" in driver.ping(bounds).version


@pytest.mark.parametrize(
    ("credentials", "passes"),
    [
        (HostCredentials(token=SecretStr("sesame")), True),
        (HostCredentials(username="ops", password=SecretStr("sesame")), True),
        (HostCredentials(token=SecretStr("wrong")), False),
        (HostCredentials(), False),
    ],
)
def test_credentials(
    credentials: HostCredentials,
    passes: bool,  # noqa: FBT001 (a parameter of the test)
    connect: Connect,
    bounds: CallBounds,
) -> None:
    with simulated_host(token="sesame") as host:
        driver = connect(host.url, credentials)
        if passes:
            driver.ping(bounds)
            return
        with pytest.raises(FinalHostError) as caught:
            driver.ping(bounds)
    assert caught.value.code is ErrorCode.CREDENTIALS_REFUSED


def test_mutual_tls(connect: Connect, bounds: CallBounds) -> None:
    with simulated_host(tls="mutual") as host:
        assert host.tls is not None
        ca = host.tls.ca.read_text()
        credentials = HostCredentials(
            ca_pem=ca,
            client_cert_pem=host.tls.client_cert.read_text(),
            client_key_pem=SecretStr(host.tls.client_key.read_text()),
        )
        driver = connect(host.url, credentials)
        driver.ping(bounds)
        driver.close()  # the simulated host does not wait for the end of TLS on kept connections
        # Whether the refusal or the end of the connection is seen first is a race of TLS 1.3.
        with pytest.raises(HostError) as caught:
            connect(host.url, HostCredentials(ca_pem=ca)).ping(bounds)
    assert caught.value.fate is Fate.UNREACHABLE


@pytest.mark.parametrize(
    ("fault", "stop_fate", "ask_fate"),
    [
        ({"kind": "error", "text": "no"}, Fate.TRANSIENT, Fate.TRANSIENT),
        ({"kind": "http", "status": 500}, Fate.TRANSIENT, Fate.TRANSIENT),
        ({"kind": "http", "status": 502}, Fate.UNKNOWN, Fate.UNREACHABLE),
        ({"kind": "http", "status": 404}, Fate.FINAL, Fate.FINAL),
        ({"kind": "hang"}, Fate.UNKNOWN, Fate.UNREACHABLE),
        ({"kind": "cut"}, Fate.UNKNOWN, Fate.UNREACHABLE),
        ({"kind": "reset"}, Fate.UNKNOWN, Fate.UNREACHABLE),
        ({"kind": "drip", "interval": 0.01, "size": 2_000}, Fate.UNKNOWN, Fate.UNREACHABLE),
        ({"kind": "garbage", "text": "hello"}, Fate.TRANSIENT, Fate.TRANSIENT),
        ({"kind": "huge", "size": 2_000_000}, Fate.TRANSIENT, Fate.TRANSIENT),
        ({"kind": "unauthorized"}, Fate.FINAL, Fate.FINAL),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_faults(
    fault: dict[str, object],
    stop_fate: Fate,
    ask_fate: Fate,
    connect: Connect,
    bounds: CallBounds,
    exchanges: list[Exchange],
) -> None:
    with simulated_host() as host:
        driver = connect(host.url, query_timeout=0.3, stop_timeout=0.3)
        host.change(faults=[fault])
        with pytest.raises(HostError) as stop:
            driver.force_stop(host.vm_ids[0], bounds)
        with pytest.raises(HostError) as ask:
            driver.power_state(host.vm_ids[0], bounds)
        assert len(host.log(method="StopVm")) == 1
    assert (stop.value.fate, ask.value.fate) == (stop_fate, ask_fate)
    assert len(exchanges) == 2
