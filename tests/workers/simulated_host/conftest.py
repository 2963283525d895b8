from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.simulated_host import SimulatedHost, simulated_host


@pytest.fixture(scope="module")
def host() -> Iterator[SimulatedHost]:
    """One host for all tests of a module that change none of its own behaviour.

    Tests take VMs of their own by `host.add_vm()`.
    """
    with simulated_host(vms=0) as running:
        yield running
