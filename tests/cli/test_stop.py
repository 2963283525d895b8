"""`cvmstop stop` against a real API; no worker runs."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select, update

from cli import waiting
from cli.api_client import ApiClient
from cli.stop_answers import NOT_BUSY
from shared.database import transaction
from shared.tables import Cvm, StopBatch, VmHost
from tests.cli.conftest import Cvmstop, Fleet
from tests.cli.stop_rows import count_stops, end_all
from tests.support.waiting import wait_until


if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine


class TestStop:
    def test_a_few(self, run: Cvmstop, fleet: Fleet, clean: Engine) -> None:
        """They are not asked about."""
        outcome = run.must("stop", *fleet.ids[:5])
        assert ": 5 accepted, 0 skipped, 0 refused\n" in outcome.out
        assert count_stops(clean) == 5

    def test_more_than_a_handful(self, run: Cvmstop, fleet: Fleet, clean: Engine) -> None:
        outcome = run("stop", *fleet.ids[:6], stdin="n\n")
        assert outcome.status == 1
        assert "Force-stop 6 CVMs?" in outcome.err
        assert run("stop", *fleet.ids[:6], stdin="").status == 1
        assert count_stops(clean) == 0
        run.must("stop", *fleet.ids[:6], stdin="y\n")
        assert count_stops(clean) == 6

    @pytest.mark.parametrize(
        ("filters", "count"),
        [
            (("--host", "node-1"), 60),
            (("--workspace", "acme"), 120),
            (("--status", "stopped"), 1),
            (("--host", "node-2", "--status", "running"), 60),
        ],
    )
    def test_by_filters_in_batches_of_50(
        self, run: Cvmstop, fleet: Fleet, clean: Engine, filters: tuple[str, ...], count: int
    ) -> None:
        del fleet
        report = json.loads(run.must("stop", *filters, "--yes", "--json").out)
        assert (report["total"], report["stopped"], report["errors"]) == (count, count, [])
        sizes = [batch["total"] for batch in report["batches"]]
        assert sizes == [50] * (count // 50) + ([count % 50] if count % 50 else [])
        assert report["outcome"] is None
        with transaction(clean) as session:
            ids = {str(batch) for batch in session.scalars(select(StopBatch.id))}
        assert ids == {batch["id"] for batch in report["batches"]}

    def test_from_a_file(self, run: Cvmstop, fleet: Fleet, clean: Engine, tmp_path: Path) -> None:
        file = tmp_path / "ids"
        first, second, third = fleet.ids[:3]
        file.write_text(f"# by hand\n\n{first}  # the first\n{second}\n{first}\n")
        run.must("stop", third, "--from-file", str(file))
        assert count_stops(clean) == 3
        run.must("stop", "--from-file", "-", stdin=f"{fleet.ids[4]}\n")
        assert count_stops(clean) == 4
        file.write_bytes(b"\xff\xfe\x00")
        outcome = run("stop", "--from-file", str(file))
        assert (outcome.status, "is no text" in outcome.err) == (2, True)

    def test_dry_run(self, run: Cvmstop, fleet: Fleet, clean: Engine) -> None:
        outcome = run("stop", *fleet.ids[:60], fleet.foreign, "--dry-run", "--json")
        report = json.loads(outcome.out)
        assert (outcome.status, report["dry_run"], report["batches"]) == (1, True, [])
        assert (report["total"], report["stopped"]) == (61, 60)
        assert report["errors"] == [{"cvm_id": fleet.foreign, "error": "CVM not found"}]
        assert count_stops(clean) == 0
        assert "would be 2 accepted" in run.must("stop", *fleet.ids[:2], "--dry-run").out

    def test_refused_and_skipped(self, run: Cvmstop, fleet: Fleet) -> None:
        run.must("stop", fleet.ids[0])
        outcome = run("stop", *fleet.ids[:2], "cvm_\x1b[31m")
        assert outcome.status == 1
        assert ": 1 accepted, 1 skipped, 1 refused\n" in outcome.out
        assert "refused: 'cvm_\\x1b[31m': CVM not found\n" in outcome.err

    def test_many_refused_or_skipped_are_told_by_reason(
        self, run: Cvmstop, fleet: Fleet, clean: Engine
    ) -> None:
        with transaction(clean) as session:
            session.execute(
                update(VmHost).where(VmHost.name == "node-2").values(disabled_at=func.now())
            )
            no_vm = update(Cvm).where(Cvm.hash_id == fleet.ids[2])
            session.execute(no_vm.values(vm_uuid=None))
        run.must("stop", fleet.ids[0])
        err = run("stop", *fleet.ids[:20], "--yes").err.splitlines()
        refused = [line for line in err if line.startswith("refused: ")]
        names = ", ".join(fleet.ids[1:11:2])
        assert refused == [f"refused: 10 CVMs: VM host is disabled: {names} and 5 more"]
        skipped = [line for line in err if line.startswith("skipped: ")]
        assert skipped == [
            f"skipped: {fleet.ids[0]}: an operation on the CVM is in progress",
            f"skipped: {fleet.ids[2]}: {NOT_BUSY}",
        ]

    def test_how_each_batch_is_watched(self, run: Cvmstop, fleet: Fleet) -> None:
        err = run.must("stop", *fleet.ids, "--yes").err
        batches = run.must("batches", "list", "--json").rows()
        assert len(batches) == 3
        assert all(f" watch {batch['id']}\n" in err for batch in batches)

    @pytest.mark.parametrize(
        "arguments", [(), ("cvm_x", "--host", "node-1"), ("--from-file", "/nowhere")]
    )
    @pytest.mark.usefixtures("fleet")
    def test_usage(self, run: Cvmstop, arguments: tuple[str, ...]) -> None:
        assert run("stop", *arguments).status == 2

    @pytest.mark.usefixtures("fleet")
    def test_none(self, run: Cvmstop) -> None:
        unknown = "cvmstop: nothing was stopped: this key sees no CVM with {}: is the name right?\n"
        for options, words in (
            (["--host", "node-3"], "host 'node-3'"),
            (["--workspace", "globex"], "workspace 'globex'"),  # there is one, of others
            (["--workspace", "acme", "--host", "typo"], "host 'typo'"),
        ):
            outcome = run("stop", *options)
            assert (outcome.status, outcome.out) == (1, "")
            assert outcome.err == unknown.format(words)
        outcome = run("stop", "--host", "node-2", "--status", "stopped")
        assert (outcome.status, outcome.out) == (1, "")
        words = "host 'node-2' and status 'stopped'"
        assert outcome.err == f"cvmstop: nothing was stopped: this key sees no CVM with {words}\n"

    def test_nobody_answers(
        self, run: Cvmstop, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CVMSTOP_API_URL", "http://127.0.0.1:1")
        outcome = run("stop", fleet.ids[0])
        assert outcome.status == 1
        (line,) = outcome.err.splitlines()
        assert "does not answer (ConnectError)" in line

    def test_the_rest_is_told_when_the_api_goes_away(
        self, run: Cvmstop, fleet: Fleet, clean: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(waiting, "PATIENCE", 0.0)
        ask = ApiClient.batch_stop

        def once(self: ApiClient, ids: list[str]) -> tuple[str, dict[str, Any]]:
            answer = ask(self, ids)
            self._client.base_url = "http://127.0.0.1:1"
            return answer

        monkeypatch.setattr(ApiClient, "batch_stop", once)
        outcome = run("stop", *fleet.ids, "--yes", "--json")
        report = json.loads(outcome.out)
        assert (outcome.status, report["stopped"]) == (1, 50)
        assert report["not_asked_for"] == fleet.ids[50:]
        assert "does not answer" in report["problem"]
        assert "70 CVMs not asked for" in outcome.err
        assert count_stops(clean) == 50


@pytest.mark.parametrize(("state", "status"), [("succeeded", 0), ("failed", 1)])
def test_wait(run: Cvmstop, fleet: Fleet, clean: Engine, state: str, status: int) -> None:
    """Until the last one has ended; what is told agrees with the rows."""
    outcomes = []
    command = threading.Thread(
        target=lambda: outcomes.append(run("stop", *fleet.ids[:60], "--yes", "--wait", "--json"))
    )
    command.start()
    wait_until(lambda: count_stops(clean) == 60, what="all were asked for")
    assert not outcomes
    end_all(clean, state)
    command.join()
    (outcome,) = outcomes
    report = json.loads(outcome.out)
    assert outcome.status == status
    found = report["outcome"]
    assert found[state] == len(found["tasks"]) == 60
    assert {task["cvm_id"] for task in found["tasks"]} == set(fleet.ids[:60])
    assert f"60 of 60 ended: 60 {state}" in outcome.err
