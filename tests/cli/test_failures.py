"""`cvmstop failures` against a real API on a real port."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from structlog.testing import capture_logs
from typer.testing import CliRunner

from api.main import create_app
from cli.main import app
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


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["failures", *arguments])


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
    assert "UUID" in _refusal("show", "not-an-id")


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
