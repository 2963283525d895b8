"""`cvmstop purge`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select, update

from shared.tables import StopBatch, StopTask
from tests.support.seeds import (
    make_cvm,
    make_ended_stop,
    make_host,
    make_key,
    make_user,
    make_workspace,
)


if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy.orm import Session

    from tests.cli.conftest import Cvmstop


@pytest.fixture
def stops(session: Session) -> list[UUID]:
    """Stops in batches of their own: 100, 50 and 0 days old, and an open one of 100 days."""
    workspace = make_workspace(session)
    key, _ = make_key(session, make_user(session, workspace), workspace)
    host = make_host(session)
    made = []
    still_open: dict[str, Any] = {"state": "scheduled", "finished_at": None}
    for days, columns in [(100, {}), (50, {}), (0, {}), (100, still_open)]:
        task = make_ended_stop(session, make_cvm(session, workspace, host), key, **columns)
        session.execute(
            update(StopBatch)
            .where(StopBatch.id == task.batch_id)
            .values(accepted_at=func.now() - func.make_interval(0, 0, 0, days))
        )
        made.append(task.id)
    session.commit()
    return made


def left(session: Session, stops: list[UUID]) -> list[int]:
    """Say which of the stops are still there."""
    found = set(session.scalars(select(StopTask.id)))
    session.rollback()
    return [number for number, stop in enumerate(stops) if stop in found]


def test_what_is_older_than_the_retention(
    cvmstop: Cvmstop, session: Session, stops: list[UUID]
) -> None:
    assert cvmstop.must("purge").out == "deleted batches: 1, stops: 1\n"
    assert left(session, stops) == [1, 2, 3]
    assert cvmstop.must("purge").out == "deleted batches: 0, stops: 0\n"


def test_what_is_older_than_that(cvmstop: Cvmstop, session: Session, stops: list[UUID]) -> None:
    outcome = cvmstop.must("purge", "--older-than", "7w")
    assert outcome.out == "deleted batches: 2, stops: 2\n"
    assert left(session, stops) == [2, 3]


def test_more_than_one_transaction_deletes(
    cvmstop: Cvmstop,
    session: Session,
    stops: list[UUID],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.purge.BATCHES_PER_TRANSACTION", 1)
    monkeypatch.setattr("workers.purge.ROUND_SECONDS", 0)
    assert cvmstop.must("purge", "--older-than", "7w").out == "deleted batches: 2, stops: 2\n"
    assert left(session, stops) == [2, 3]


def test_dry_run(cvmstop: Cvmstop, session: Session, stops: list[UUID]) -> None:
    outcome = cvmstop.must("purge", "--older-than", "7w", "--dry-run")
    assert outcome.out == "would delete batches: 2, stops: 2; nothing was deleted\n"
    assert left(session, stops) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("duration", "words"),
    [("14m", "less than a stop may take"), ("30", "no duration"), ("99999d", "nothing here is")],
)
def test_a_duration_that_cannot_be(
    cvmstop: Cvmstop, session: Session, stops: list[UUID], duration: str, words: str
) -> None:
    outcome = cvmstop("purge", "--older-than", duration)
    assert (outcome.status, outcome.out) == (2, "")
    assert words in " ".join(outcome.err.split())
    assert left(session, stops) == [0, 1, 2, 3]


def test_no_retention(
    cvmstop: Cvmstop, session: Session, stops: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CVMSTOP_RETENTION", "0")
    assert cvmstop("purge").status == 2
    assert left(session, stops) == [0, 1, 2, 3]
    assert cvmstop.must("purge", "--older-than", "90d").out == "deleted batches: 1, stops: 1\n"


def test_neither_the_broker_nor_sealing_keys_are_needed(
    cvmstop: Cvmstop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CVMSTOP_BROKER_URL")
    monkeypatch.delenv("CVMSTOP_SEALING_KEYS")
    cvmstop.must("purge")
