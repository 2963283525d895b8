"""`cvmstop watch` against a real API; no worker runs."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, update

from shared.database import transaction
from shared.tables import ApiKey
from tests.cli.conftest import Cvmstop, Fleet
from tests.cli.stop_rows import NO_BATCH_ID, count_watches, end_all
from tests.support.waiting import wait_until


if TYPE_CHECKING:
    from sqlalchemy import Engine


class TestWatch:
    @pytest.mark.parametrize(("state", "status"), [("succeeded", 0), ("failed", 1)])
    def test_until_the_last_has_ended(
        self, run: Cvmstop, fleet: Fleet, clean: Engine, state: str, status: int
    ) -> None:
        run.must("stop", *fleet.ids[:3])
        outcomes = []
        command = threading.Thread(target=lambda: outcomes.append(run("watch", "--json")))
        command.start()
        wait_until(lambda: count_watches(clean) == 1, what="it is watched")
        assert not outcomes
        end_all(clean, state)
        command.join()
        (outcome,) = outcomes
        events = [json.loads(line) for line in outcome.out.splitlines()]
        assert [event.get("state") for event in events] == ["scheduled"] * 3 + [state] * 3 + [None]
        assert {event["event"] for event in events[:-1]} == {"stop"}
        assert {event["cvm_id"] for event in events[:-1]} == set(fleet.ids[:3])
        assert events[-1]["event"] == "end"
        assert events[-1]["counts"][state] == 3
        assert (outcome.status, outcome.err) == (status, "")

    def test_a_line_for_each_change_where_there_is_no_terminal(
        self, run: Cvmstop, fleet: Fleet, clean: Engine
    ) -> None:
        run.must("stop", *fleet.ids[:2])
        (batch,) = run.must("batches", "list", "--json").rows()
        run.must("stop", *fleet.ids[2:4])  # a newer one
        end_all(clean)
        outcome = run("watch", batch["id"])
        assert outcome.status == 1
        assert outcome.err == f"batch {batch['id']}: 2 stops\n"
        lines = outcome.out.splitlines()
        assert sorted(line.split("  ")[1:] for line in lines[:4]) == sorted(
            [cvm_id, host, *rest]
            for cvm_id, host in zip(fleet.ids[:2], ("node-1", "node-2"), strict=True)
            for rest in (["scheduled"], ["failed", "host_error"])
        )
        assert any(line.startswith("node-1") for line in lines[4:])

    @pytest.mark.usefixtures("fleet")
    def test_nothing_to_watch(self, run: Cvmstop, monkeypatch: pytest.MonkeyPatch) -> None:
        outcome = run("watch")
        assert (outcome.status, outcome.out) == (1, "")
        assert outcome.err == "cvmstop: there are no batches for this key\n"
        for batch_id in ("00000000-0000-4000-8000-000000000000", "../x"):
            outcome = run("watch", batch_id)
            assert (outcome.status, outcome.out) == (1, "")
            assert len(outcome.err.splitlines()) == 1
        assert run("watch", "../x").err == NO_BATCH_ID
        monkeypatch.setenv("CVMSTOP_API_URL", "http://127.0.0.1:1")
        outcome = run("watch", "--json")
        assert (outcome.status, outcome.out) == (1, "")
        assert "does not answer (ConnectError)" in outcome.err

    def test_the_key_is_revoked_meanwhile(self, run: Cvmstop, fleet: Fleet, clean: Engine) -> None:
        run.must("stop", fleet.ids[0])
        outcomes = []
        command = threading.Thread(target=lambda: outcomes.append(run("watch")))
        command.start()
        wait_until(lambda: count_watches(clean) == 1, what="it is watched")
        with transaction(clean) as session:
            session.execute(update(ApiKey).values(revoked_at=func.now()))
        command.join()
        (outcome,) = outcomes
        assert outcome.status == 1
        assert "the API does not know the key in CVMSTOP_API_KEY" in outcome.err.splitlines()[-1]
