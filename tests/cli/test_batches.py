"""`cvmstop batches`, and `failures retry` of their stops, against a real API; no worker runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from shared.database import transaction
from shared.tables import StopTask
from tests.cli.conftest import Cvmstop, Fleet
from tests.cli.stop_rows import NO_BATCH_ID, end_all


if TYPE_CHECKING:
    from sqlalchemy import Engine


class TestBatches:
    def test_list_and_show(self, run: Cvmstop, fleet: Fleet, clean: Engine) -> None:
        run("stop", *fleet.ids[:2], fleet.foreign)
        (batch,) = run.must("batches", "list", "--json").rows()
        assert (batch["total"], batch["open"]) == (3, 2)
        assert batch["id"] in run.must("batches", "list").out
        shown = run.must("batches", "show", batch["id"]).out
        assert all(cvm_id in shown for cvm_id in (*fleet.ids[:2], fleet.foreign))
        assert "retry of" not in shown
        end_all(clean)
        new = json.loads(run.must("batches", "retry", batch["id"], "--json").out)
        assert (new["retried"], new["not_retried"]) == (2, [])
        assert f"retry of batch {batch['id']}" in run.must("batches", "show", new["batch_id"]).out
        retried = json.loads(run.must("batches", "show", new["batch_id"], "--json").out)
        old = retried["tasks"][0]["retry_of"]
        assert f"retried by {retried['tasks'][0]['id']}" in run.must("failures", "show", old).out

    def test_retry_tells_what_is_not_retried(
        self, run: Cvmstop, fleet: Fleet, clean: Engine
    ) -> None:
        run.must("stop", *fleet.ids[:2])
        end_all(clean)
        (batch,) = run.must("batches", "list", "--json").rows()
        run.must("stop", fleet.ids[0])
        outcome = run("batches", "retry", batch["id"])
        assert outcome.status == 1
        assert "retried 1 of 2, in batch " in outcome.out
        assert f"not retried: {fleet.ids[0]}: an operation on the CVM is in progress\n" in (
            outcome.err
        )

    def test_cancel(self, run: Cvmstop, fleet: Fleet, clean: Engine) -> None:
        run.must("stop", *fleet.ids[:3])
        (batch,) = run.must("batches", "list", "--json").rows()
        with transaction(clean) as session:
            one = session.scalars(select(StopTask).limit(1)).one()
            one.state, one.force_stopped_at = "confirming", one.accepted_at
        outcome = run("batches", "cancel", batch["id"])
        assert outcome.status == 1
        assert outcome.out == "canceled 2 of 3 that were open\n"
        assert "the host took the force stop already" in outcome.err
        end_all(clean, "succeeded")
        answer = json.loads(run.must("batches", "cancel", batch["id"], "--json").out)
        assert answer == {"total": 0, "canceled": 0, "not_canceled": []}

    @pytest.mark.parametrize("command", ["show", "retry", "cancel"])
    @pytest.mark.usefixtures("fleet")
    def test_no_such_batch(self, run: Cvmstop, command: str) -> None:
        for batch_id in ("00000000-0000-4000-8000-000000000000", "../x"):
            outcome = run("batches", command, batch_id)
            assert (outcome.status, outcome.out) == (1, "")
            assert len(outcome.err.splitlines()) == 1
        assert run("batches", command, "../x").err == NO_BATCH_ID

    @pytest.mark.usefixtures("fleet")
    def test_none(self, run: Cvmstop) -> None:
        assert run.must("batches", "list").err == "there are no batches for this key\n"


def test_failures_retry(run: Cvmstop, fleet: Fleet, clean: Engine) -> None:
    run.must("stop", *fleet.ids[:3])
    end_all(clean)
    first, second, third = (row["id"] for row in run.must("failures", "list", "--json").rows())
    assert run.must("failures", "retry", first, first, second).out == "retried 2 of 2\n"
    outcome = run("failures", "retry", second, third, "no-id", "--json")
    report = json.loads(outcome.out)
    assert (outcome.status, report["total"], report["retried"]) == (1, 2, 1)
    assert [each["reason"] for each in report["not_retried"]] == ["in_progress"]
    assert [each["stop_task_id"] for each in report["problems"]] == ["no-id"]
    what = "'no-id' is not the id of a stop; `cvmstop failures list` shows them"
    assert f"not retried: no-id: {what}\n" in outcome.err
    assert run("failures", "show", "no-id").err == f"cvmstop: {what}\n"
    assert len(run.must("failures", "list", "--json").rows()) == 3
