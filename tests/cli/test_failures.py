"""`cvmstop failures` against a real API on a real port."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from structlog.testing import capture_logs
from typer.testing import CliRunner

from api.main import create_app
from cli.main import app
from shared.services import failures as service
from shared.storage import failures as storage
from shared.tables import StopAttempt, StopTask
from tests.support.seeds import (
    make_cvm,
    make_ended_stop,
    make_host,
    make_key,
    make_user,
    make_workspace,
)
from tests.support.served_api import served_api


if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine
    from typer.testing import Result

    from shared.settings import Settings

TEXT = "the host said \x1b[31mno"


@pytest.fixture(scope="module")
def api_url(settings: Settings) -> Iterator[str]:
    """Serve the API on a port; its log lines must not get into the commands' output."""
    with capture_logs(), served_api(create_app(settings)) as url:
        yield url


def _add_failure(session: Session, host_name: str) -> tuple[StopTask, str]:
    """Add a failed stop with one attempt; give it, and the key of who may see it."""
    workspace = make_workspace(session)
    user = make_user(session, workspace)
    key_row, key = make_key(session, user, workspace)
    host = make_host(session, name=host_name)
    cvm = make_cvm(session, workspace, host)
    task = make_ended_stop(
        session,
        cvm,
        key_row,
        state="failed",
        attempt=1,
        error_code="host_error",
        error_message=TEXT,
    )
    session.add(
        StopAttempt(
            stop_task_id=task.id,
            number=1,
            worker="worker@here",
            finished_at=func.now(),
            outcome="failed",
            power_state="running",
            error_code="host_error",
            error_message=TEXT,
            exchanges=[{"request": 'StopVm {"id": "x"}', "answer": "400 no", "seconds": 0.25}],
        )
    )
    return task, key


@pytest.fixture
def failure(clean: Engine, api_url: str, monkeypatch: pytest.MonkeyPatch) -> StopTask:
    """Give a failed stop; the environment has the key of who may see it."""
    with Session(clean, expire_on_commit=False) as session:
        task, key = _add_failure(session, "host-a")
        _add_failure(session, "host-of-others")
        session.commit()
        session.refresh(task)
    monkeypatch.setenv("CVMSTOP_API_URL", api_url)
    monkeypatch.setenv("CVMSTOP_API_KEY", key)
    return task


def _run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["failures", *arguments], input=stdin)


def _retries(engine: Engine) -> list[UUID | None]:
    """Give the stops that were tried again."""
    with Session(engine) as session:
        tried = select(StopTask.retry_of).where(StopTask.retry_of.is_not(None))
        return list(session.scalars(tried))


def _listed(*arguments: str) -> list[dict[str, Any]]:
    result = _run("list", "--json", *arguments)
    assert result.exit_code == 0, result.output
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def test_lists_what_the_key_may_see(failure: StopTask) -> None:
    (row,) = _listed()
    assert (row["id"], row["host"], row["error_message"]) == (str(failure.id), "host-a", TEXT)


def test_table(failure: StopTask) -> None:
    result = _run("list")
    assert str(failure.id) in result.stdout
    assert "host_error" in result.stdout
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--host", "host-a"], 1),
        (["--host", "host-b"], 0),
        (["--error-code", "host_error"], 1),
        (["--error-code", "timeout"], None),
        (["--workspace", "no-such"], 0),
        (["--cvm", "cvm_no_such"], 0),
        (["--batch", str(uuid4())], 0),
        (["--since", "2020-01-31"], 1),
        (["--since", "2120-01-31T14:00:00"], 0),
        (["--since", "2020-01-31T14:00:00+0200"], 1),
        (["--since", "yesterday"], None),
        (["--limit", "1"], 1),
        (["--request-id", "a request"], 1),
        (["--request-id", "another"], 0),
        (["--retried"], 0),
        (["--not-retried"], 1),
    ],
)
@pytest.mark.usefixtures("failure")
def test_filters(arguments: list[str], found: int | None) -> None:
    if found is None:
        assert _run("list", *arguments).exit_code == 2
    else:
        assert len(_listed(*arguments)) == found


@pytest.mark.usefixtures("failure")
def test_none() -> None:
    result = _run("list", "--host", "host-b")
    assert (result.exit_code, result.stdout) == (0, "")
    assert (
        "no stop has failed, as far as this key may see, with these filters: host host-b\n"
        in result.stderr
    )


class TestGroups:
    def test_a_table(self, failure: StopTask) -> None:
        header, row = _run("list", "--group").stdout.splitlines()
        assert header.split()[0] == "failures"
        assert row.startswith("1 \N{MULTIPLICATION SIGN} host_error: host-a  ")
        assert str(failure.id) in row
        assert "\x1b" not in row

    def test_json(self, failure: StopTask) -> None:
        found = json.loads(_run("list", "--group", "--json").stdout)
        (group,) = found.pop("groups")
        assert found == {"counted": 1, "left_out": 0, "is_cut_off": False}
        assert (group["count"], group["sample_id"]) == (1, str(failure.id))

    @pytest.mark.usefixtures("failure")
    def test_what_is_not_shown_is_said(
        self, clean: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Session(clean) as session:
            workspace = make_workspace(session)
            user = make_user(session, admin=True)
            _, key = make_key(session, user, workspace)
            session.commit()
        monkeypatch.setattr(service, "MOST_GROUPS", 1)
        monkeypatch.setattr(storage, "MOST_READ", 2)
        monkeypatch.setenv("CVMSTOP_API_KEY", key)
        result = _run("list", "--group")
        assert result.stderr == "and 1 smaller groups\n"
        monkeypatch.setattr(storage, "MOST_READ", 1)
        result = _run("list", "--group")
        assert result.stderr == "only the newest 1 failures were counted\n"

    @pytest.mark.usefixtures("failure")
    def test_none(self) -> None:
        result = _run("list", "--group", "--host", "host-b")
        assert (result.exit_code, result.stdout) == (0, "")
        assert "with these filters: host host-b\n" in result.stderr

    @pytest.mark.usefixtures("failure")
    def test_a_limit_is_refused(self) -> None:
        assert _run("list", "--group", "--limit", "1").exit_code == 2


class TestRetryByFilter:
    def test_it_asks_and_says_how_many(self, failure: StopTask, clean: Engine) -> None:
        result = _run("retry", "--host", "host-a", stdin="n\n")
        assert result.exit_code == 1
        assert result.stderr.startswith("1 \N{MULTIPLICATION SIGN} host_error: host-a\n")
        assert "Try 1 failed stop again? [y/N]" in result.stderr
        assert _retries(clean) == []
        assert _run("retry", "--host", "host-a", stdin="y\n").exit_code == 0
        assert _retries(clean) == [failure.id]

    def test_json_once_and_not_again(self, failure: StopTask, clean: Engine) -> None:
        """Of those that were tried again, the retry counts: it has not failed."""
        arguments = ("retry", "--error-code", "host_error", "--yes", "--json")
        result = _run(*arguments)
        assert result.exit_code == 0
        report = json.loads(result.stdout)
        (batch_id,) = report.pop("batches")
        assert report == {"total": 1, "retried": 1, "not_retried": [], "problems": []}
        with Session(clean) as session:
            assert (
                str(session.scalars(select(StopTask.batch_id).filter_by(retry_of=failure.id)).one())
                == batch_id
            )
        again = _run(*arguments)
        assert (again.exit_code, again.stdout) == (1, "")
        assert (
            "nothing failed that was not tried again, with these filters: error_code"
            in again.stderr
        )

    @pytest.mark.usefixtures("failure")
    def test_a_key_takes_only_its_own(self, clean: Engine) -> None:
        assert _run("retry", "--host", "host-of-others", "--yes").exit_code == 1
        assert _retries(clean) == []

    @pytest.mark.parametrize(
        "arguments", [[], [str(uuid4()), "--host", "host-a"], ["--since", "yesterday"], ["--yes"]]
    )
    @pytest.mark.usefixtures("failure")
    def test_wrong_usage(self, clean: Engine, arguments: list[str]) -> None:
        assert _run("retry", *arguments).exit_code == 2
        assert _retries(clean) == []


def test_shows_every_try(failure: StopTask) -> None:
    result = _run("show", str(failure.id))
    assert result.exit_code == 0
    assert 'sent     StopVm {"id": "x"}' in result.stdout
    assert "got      400 no  (0.250 s)" in result.stdout
    assert "try 1" in result.stdout
    assert "\x1b" not in result.stdout


def test_repeated_exchanges_are_shown_once_and_long_answers_cut(
    failure: StopTask, clean: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = {"request": "GetInfo", "answer": f"200 {'long ' * 100}", "seconds": 0.125}
    with Session(clean) as session:
        (attempt,) = session.scalars(select(StopAttempt).filter_by(stop_task_id=failure.id))
        attempt.exchanges = [*attempt.exchanges, look, {**look, "seconds": 0.5}, look]
        session.commit()
    monkeypatch.setenv("COLUMNS", "70")
    lines = _run("show", str(failure.id)).stdout.splitlines()
    assert [line for line in lines if line.startswith("  sent")] == [
        '  sent     StopVm {"id": "x"}',
        "  sent     GetInfo",
    ]
    assert lines[-1].startswith("  got      200 long long ")
    assert lines[-1].endswith("…  (3 times, at most 0.500 s)")
    assert len(lines[-1]) == 70


def test_shows_json(failure: StopTask) -> None:
    shown = json.loads(_run("show", str(failure.id), "--json").stdout)
    assert shown["attempt_log"][0]["worker"] == "worker@here"


def _refusal(*arguments: str) -> str:
    result = _run(*arguments)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.usefixtures("failure")
def test_no_such_stop() -> None:
    assert "404" in _refusal("show", str(uuid4()))
    assert "is not the id of a stop" in _refusal("show", "not-an-id")


@pytest.mark.usefixtures("failure")
def test_a_key_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVMSTOP_API_KEY", "cvmstop_unknown")
    assert "does not know the key" in _refusal("list")


@pytest.mark.usefixtures("failure")
def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVMSTOP_API_URL", "http://127.0.0.1:1")
    assert "http://127.0.0.1:1 does not answer (ConnectError)" in _refusal("list")


@pytest.mark.usefixtures("failure")
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("127.0.0.1:8000", "CVMSTOP_API_URL: http:// or https:// is missing"),
        ("ftp://127.0.0.1", "CVMSTOP_API_URL: http:// or https:// is missing"),
        ("http://[", "is CVMSTOP_API_URL right?"),
    ],
)
def test_no_address(monkeypatch: pytest.MonkeyPatch, url: str, words: str) -> None:
    monkeypatch.setenv("CVMSTOP_API_URL", url)
    assert words in _refusal("list")


def test_nothing_set() -> None:
    line = _refusal("list")
    assert "CVMSTOP_API_URL is not set" in line
    assert "CVMSTOP_API_KEY is not set" in line
