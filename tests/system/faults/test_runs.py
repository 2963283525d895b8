"""Runs of thousands of stops, each with its kind of fault."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.faults.run import Run


def test_no_fault(new_run: Callable[[str], Run]) -> None:
    run = new_run("no fault")
    with run.running():
        pass
    assert run.report.judgement.states.keys() == {"succeeded"}
    assert not run.report.own_ends
