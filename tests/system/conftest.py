"""One stack for all system tests, with 200 CVMs on three simulated hosts.

It is shared: a test leaves it in working order, and takes no CVM's state for granted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.system.running_stack import RunningStack, started_up


if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    directory = tmp_path_factory.mktemp("system")
    options = ("--simulate", "200")
    with started_up(directory / "stack", *options, output=directory / "up.log") as (running, _):
        yield running
