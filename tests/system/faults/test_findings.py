"""The judge sees what is wrong: each test has one thing wrong, and the first has none."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.system.faults import findings
from tests.system.faults.clients import Answered
from tests.system.faults.findings import Stop, Turn


BEGAN = datetime(2026, 1, 1, tzinfo=UTC)

BODY = {"total": 2, "stopped": 1, "skipped": 0, "errors": [{}]}

ANSWER = Answered(batch_id="batch", cvm_ids=("cvm", "nowhere"), body=BODY)

STOP = Stop(
    id="stop",
    batch_id="batch",
    cvm_id="cvm",
    vm_uuid="vm",
    cvm_vm_uuid="vm",
    accepted_at=BEGAN,
    finished_at=BEGAN + timedelta(seconds=10),
    state="succeeded",
    attempt=1,
    error_code=None,
    error_message=None,
)


def turn(began: float, ended: float) -> Turn:
    return Turn(
        vm_uuid="vm",
        began=BEGAN + timedelta(seconds=began),
        ended=BEGAN + timedelta(seconds=ended),
        outcome="succeeded",
        state="succeeded",
    )


def entry(seconds: float, method: str = "StopVm", reported: str | None = None) -> dict[str, Any]:
    time = (BEGAN + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")
    return {"time": time, "method": method, "vm_id": "vm", "reported": reported}


def test_nothing_is_wrong() -> None:
    log = [entry(1), entry(2, "GetInfo", "stopped")]
    assert findings.wrong_answers([ANSWER, ANSWER]) == []
    assert findings.wrong_rows([STOP], {"batch": ANSWER}) == []
    assert findings.changed_since([STOP], {"stop": STOP.ending}) == []
    assert findings.successes_nobody_saw([STOP], log) == []
    assert findings.force_stops_outside([turn(0, 3)], log) == 0


def test_answers() -> None:
    assert findings.wrong_answers([replace(ANSWER, body={**BODY, "total": 3})])
    assert findings.wrong_answers([ANSWER, replace(ANSWER, body={**BODY, "errors": [{"a": 1}]})])


def test_rows_that_nobody_asked_for() -> None:
    assert findings.wrong_rows([STOP], {})
    assert findings.wrong_rows([STOP, replace(STOP, id="another")], {"batch": ANSWER})
    assert findings.wrong_rows([replace(STOP, cvm_id="other")], {"batch": ANSWER})
    assert findings.wrong_rows([replace(STOP, vm_uuid="other")], {"batch": ANSWER})


def test_changes_after_the_end() -> None:
    before = replace(STOP, state="failed").ending
    assert findings.changed_since([STOP], {"stop": before})


def test_successes_that_nobody_saw() -> None:
    for log in (
        [],
        [entry(2, "GetInfo", "running")],
        [entry(-1, "GetInfo", "stopped")],
        [entry(11, "GetInfo", "stopped")],
        [entry(1, "GetInfo", "stopped"), entry(2, "GetInfo", "running")],
    ):
        assert findings.successes_nobody_saw([STOP], log), log


def test_force_stops_too_many() -> None:
    turns = [turn(0, 3), turn(5, 8)]
    assert findings.force_stops_outside(turns, [entry(1), entry(6)]) == 0
    assert findings.force_stops_outside(turns, [entry(1), entry(2)]) == 1
    assert findings.force_stops_outside(turns, [entry(4)]) == 1
    assert findings.force_stops_outside(turns, [entry(9)]) == 1
