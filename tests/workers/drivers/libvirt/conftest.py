"""Drivers on libvirt's own test hypervisor, and on connections that do what no daemon does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from shared.models.hosts import HostConnection, HostCredentials
from workers.drivers.libvirt.driver import LibvirtDriver
from workers.drivers.libvirt.library import load_library
from workers.drivers.protocol import CallBounds


if TYPE_CHECKING:
    from shared.models.turns import Exchange

Connect = Callable[..., LibvirtDriver]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Give what makes a driver that is closed after the test."""
    drivers = []

    def make(
        address: str = "test:///default",
        credentials: HostCredentials | None = None,
        **timeouts: float,
    ) -> LibvirtDriver:
        chosen = {
            "connect_timeout": 20.0,
            "query_timeout": 20.0,
            "stop_timeout": 20.0,
            "restart_guard": 21.0,
            **timeouts,
        }
        driver = LibvirtDriver(
            HostConnection(
                name="host-1",
                driver="libvirt",
                address=address,
                credentials=credentials or HostCredentials(),
            ),
            **chosen,
        )
        drivers.append(driver)
        return driver

    yield make
    for driver in drivers:
        driver.close()


@pytest.fixture
def exchanges() -> list[Exchange]:
    return []


@pytest.fixture
def bounds(exchanges: list[Exchange]) -> CallBounds:
    return CallBounds(deadline=time.monotonic() + 30, record=exchanges.append)


@pytest.fixture
def hypervisor() -> Iterator[Any]:
    """Give a connection to the test hypervisor: its machines live as long as one is open."""
    load_library()
    connection = libvirt.open("test:///default")
    yield connection
    connection.close()


@pytest.fixture
def machine(hypervisor: Any) -> Iterator[Any]:
    """Give a machine that runs."""
    domain = hypervisor.defineXML(
        "<domain type='test'><name>m</name><memory>8192</memory><os><type>hvm</type></os></domain>"
    )
    domain.create()
    yield domain
    for one in hypervisor.listAllDomains():
        if one.name() == "m":
            if one.isActive():
                one.destroy()
            if one.isPersistent():
                one.undefine()
