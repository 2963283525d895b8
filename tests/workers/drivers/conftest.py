"""A driver for whatever host a test makes up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import pytest

from shared.models.hosts import HostConnection, HostCredentials
from workers.drivers.dstack import DstackDriver
from workers.drivers.protocol import CallBounds


if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.models.turns import Exchange


class Connect(Protocol):
    """Makes a driver that is closed after the test."""

    def __call__(
        self,
        address: str,
        credentials: HostCredentials | None = None,
        *,
        connect_timeout: float = 20.0,
        query_timeout: float = 20.0,
        stop_timeout: float = 20.0,
    ) -> DstackDriver: ...


@pytest.fixture
def connect() -> Iterator[Connect]:
    drivers: list[DstackDriver] = []

    def make(
        address: str,
        credentials: HostCredentials | None = None,
        *,
        connect_timeout: float = 20.0,
        query_timeout: float = 20.0,
        stop_timeout: float = 20.0,
    ) -> DstackDriver:
        driver = DstackDriver(
            HostConnection(
                name="host-1",
                driver="dstack",
                address=address,
                credentials=credentials or HostCredentials(),
            ),
            connect_timeout=connect_timeout,
            query_timeout=query_timeout,
            stop_timeout=stop_timeout,
        )
        drivers.append(driver)
        return driver

    yield make
    for driver in drivers:
        driver.close()


@pytest.fixture
def exchanges() -> list[Exchange]:
    """What the driver wrote down."""
    return []


@pytest.fixture
def bounds(exchanges: list[Exchange]) -> CallBounds:
    return CallBounds(deadline=time.monotonic() + 30, record=exchanges.append)
