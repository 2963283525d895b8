"""The table of protections is about the code that is there."""

from __future__ import annotations

import pytest

from cli.stack.child import CHECKOUT
from tests.system.faults.protections import PROTECTIONS, Protection


@pytest.mark.parametrize("protection", PROTECTIONS, ids=lambda each: f"{each.fault}: {each.name}")
def test_can_be_taken_out(protection: Protection) -> None:
    for change in protection.changes:
        assert (CHECKOUT / change.file).read_text().count(change.old) == 1, change.file
    assert (CHECKOUT / protection.test.partition("::")[0]).exists()
