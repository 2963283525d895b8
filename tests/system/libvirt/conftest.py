"""A whole stack that stops real QEMU machines, on two hosts with a libvirt daemon each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.libvirt_host import LibvirtHost, libvirt_host
from tests.system.libvirt.yard import Yard
from tests.system.running_stack import started_up


if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def yard(
    tmp_path_factory: pytest.TempPathFactory, hosts: tuple[LibvirtHost, LibvirtHost]
) -> Iterator[Yard]:
    directory = tmp_path_factory.mktemp("libvirt")
    with started_up(directory / "stack", output=directory / "up.log") as (running, _):
        yard = Yard(running, directory)
        for name, host in zip(("one", "two"), hosts, strict=True):
            yard.add_host(name, host.uri)
        yield yard


@pytest.fixture(scope="session")
def hosts() -> Iterator[tuple[LibvirtHost, LibvirtHost]]:
    with libvirt_host() as one, libvirt_host() as two:
        yield one, two
