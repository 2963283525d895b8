from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

import workers.drivers.libvirt.driver
from shared.models.errors import ErrorCode
from shared.models.hosts import HostConnection, HostCredentials
from shared.settings import Settings
from tests.workers.drivers.raw_hosts import RawHost, answering, http_answer
from workers.drivers.errors import FinalHostError
from workers.drivers.libvirt.library import load_library
from workers.drivers.registry import Drivers


if TYPE_CHECKING:
    from collections.abc import Iterator

    from workers.drivers.protocol import CallBounds

HOST = HostConnection(
    name="host-1",
    driver="dstack",
    address="http://127.0.0.1:1",
    credentials=HostCredentials(token=SecretStr("one")),
)


@pytest.fixture
def drivers() -> Iterator[Drivers]:
    made = Drivers(
        Settings(
            broker_url=SecretStr("redis://127.0.0.1:1"),
            database_url=SecretStr("postgresql://127.0.0.1:1/x"),
            sealing_keys=SecretStr("x"),
        )
    )
    yield made
    made.close()


def test_a_driver_is_kept(drivers: Drivers) -> None:
    same = replace(HOST, credentials=HostCredentials(token=SecretStr("one")))
    assert drivers.get(HOST) is drivers.get(same)
    assert drivers.get(HOST) is not drivers.get(replace(HOST, name="host-2"))


@pytest.mark.parametrize(
    "changed",
    [
        replace(HOST, address="http://127.0.0.1:2"),
        replace(HOST, credentials=HostCredentials(token=SecretStr("two"))),
    ],
)
def test_a_changed_host_gets_a_new_driver(changed: HostConnection, drivers: Drivers) -> None:
    old = drivers.get(HOST)
    new = drivers.get(changed)
    assert new is not old
    assert drivers.get(changed) is new


def test_the_old_driver_is_closed(drivers: Drivers, bounds: CallBounds) -> None:
    with RawHost(answering(http_answer({"version": "v0.6.0", "rev": "r"}))) as host:
        here = replace(HOST, address=host.address)
        drivers.get(here).ping(bounds)
        drivers.get(replace(here, credentials=HostCredentials())).ping(bounds)
        drivers.close()
        drivers.get(here).ping(bounds)
    assert [request.connection for request in host.requests] == [0, 1, 2]


def test_threads_get_the_same_one(drivers: Drivers) -> None:
    with ThreadPoolExecutor(16) as threads:
        assert len(set(threads.map(lambda _: drivers.get(HOST), range(64)))) == 1


@pytest.mark.parametrize(
    ("host", "problem"),
    [
        (replace(HOST, driver="vmware"), "no driver 'vmware'; there is: dstack, libvirt"),
        (replace(HOST, address="127.0.0.1:9080"), "unknown scheme"),
        (replace(HOST, credentials=HostCredentials(token=SecretStr("a\nb"))), "token"),
        (
            replace(HOST, address="https://h", credentials=HostCredentials(ca_pem="x")),
            "CA certificates",
        ),
    ],
)
def test_a_row_that_cannot_be_used(host: HostConnection, problem: str, drivers: Drivers) -> None:
    with pytest.raises(FinalHostError, match=problem) as caught:
        drivers.get(host)
    assert caught.value.code is ErrorCode.BAD_HOST_CONFIGURATION


LIBVIRT = replace(HOST, driver="libvirt", address="qemu:///system", credentials=HostCredentials())


def test_without_the_extra_libvirt_says_what_to_install(
    drivers: Drivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)  # as if it were not there
    monkeypatch.setattr(workers.drivers.libvirt.driver, "load_library", load_library.__wrapped__)
    with pytest.raises(FinalHostError, match="pip install -r requirements-libvirt") as caught:
        drivers.get(LIBVIRT)
    assert caught.value.code is ErrorCode.BAD_HOST_CONFIGURATION


@pytest.mark.parametrize(
    ("host", "problem"),
    [
        (replace(LIBVIRT, address="http://127.0.0.1"), "no libvirt URI"),
        (replace(LIBVIRT, credentials=HostCredentials(token=SecretStr("t"))), "no tokens"),
        (replace(LIBVIRT, credentials=HostCredentials(ca_pem="x")), "pkipath"),
        (replace(LIBVIRT, credentials=HostCredentials(client_cert_pem="x")), "pkipath"),
    ],
)
def test_a_libvirt_row_that_cannot_be_used(
    host: HostConnection, problem: str, drivers: Drivers
) -> None:
    with pytest.raises(FinalHostError, match=problem) as caught:
        drivers.get(host)
    assert caught.value.code is ErrorCode.BAD_HOST_CONFIGURATION
