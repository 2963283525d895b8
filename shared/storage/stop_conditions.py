"""Which stops are wanted, as conditions of a query of stop tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from sqlalchemy import any_, bindparam, case, false, func, select, true
from sqlalchemy.orm import aliased

from shared.models.states import OPEN_STATES, StopState
from shared.storage.stop_states import is_one_of
from shared.tables import Cvm, StopBatch, StopTask, VmHost, Workspace


if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import ColumnElement, ScalarSelect
    from sqlalchemy.orm import InstrumentedAttribute

    from shared.models.pages import StopFilter

BATCHES_OF_A_REQUEST = 1_000
"""Batches of one request id that stops are found by, the newest: a client may send any id, and the
same with all that it asks.
"""

Key = TypeVar("Key", int, UUID)


def seen_by(sees_only: UUID | None) -> Iterator[ColumnElement[bool]]:
    """Say which stops a caller may see: those of one workspace, or all."""
    if sees_only is not None:
        yield StopTask.workspace_id == sees_only


def conditions(wanted: StopFilter, *, sees_only: UUID | None) -> Iterator[ColumnElement[bool]]:
    """Say which stops are wanted, of those that the caller may see."""
    yield from seen_by(sees_only)
    yield from _named(wanted)
    if wanted.states:
        failed_for_a_reason = wanted.error_code is not None and wanted.states == (StopState.FAILED,)
        if failed_for_a_reason and (wanted.host, wanted.workspace, sees_only) == (None, None, None):
            # Nearly all that have an error have failed: their own index is the shortest way, and
            # nothing is to be gained by reading that of all failures as well.
            yield _checked(StopTask.state == StopState.FAILED)
        else:
            yield is_one_of(StopTask.state, *wanted.states)
        if set(wanted.states) <= set(OPEN_STATES):
            # Says no more, and lets the open stops' own index be used.
            yield StopTask.finished_at.is_(None)
    if wanted.batch_id is not None:
        yield StopTask.batch_id == wanted.batch_id
    if wanted.error_code is not None:
        yield StopTask.error_code == wanted.error_code
    if wanted.accepted_from is not None:
        yield StopTask.accepted_at >= wanted.accepted_from
    if wanted.accepted_before is not None:
        yield StopTask.accepted_at < wanted.accepted_before
    if wanted.retried is not None:
        # Looked up for each, not joined: that would read all retries there are.
        retry = newest_retry(sees_only)
        yield _checked(retry.is_not(None) if wanted.retried else retry.is_(None))


def _named(wanted: StopFilter) -> Iterator[ColumnElement[bool]]:
    """Say which by what they belong to."""
    # What has a name is found first, by itself: only of a single id does PostgreSQL know that the
    # index of its stops gives them in their order. From a join it would read and sort them all.
    if wanted.cvm_id is not None:
        yield StopTask.cvm_id == _only(Cvm.id, Cvm.hash_id == wanted.cvm_id)
    if wanted.host is not None:
        yield StopTask.vm_host_id == _only(VmHost.id, VmHost.name == wanted.host)
    if wanted.workspace is not None:
        yield StopTask.workspace_id == _only(Workspace.id, Workspace.name == wanted.workspace)
    if wanted.request_id is not None:
        # Few, and found by themselves: of the stops no index has the request.
        batches = (
            select(StopBatch.id)
            .where(StopBatch.request_id == wanted.request_id)
            .order_by(StopBatch.accepted_at.desc(), StopBatch.id.desc())
            .limit(in_the_text(BATCHES_OF_A_REQUEST, "batches"))
        )
        yield StopTask.batch_id == any_(func.array(batches.correlate(None).scalar_subquery()))


def _checked(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Say a condition that each row is checked for, whatever indexes there are.

    PostgreSQL takes it for as likely as not. Of one that it knows, it may believe that next to no
    row fulfils it, and then reads and sorts them all for a page.
    """
    return case((condition, true()), else_=false())


def newest_retry(sees_only: UUID | None) -> ScalarSelect[UUID]:
    """Give the newest retry of the surrounding query's stop, if the caller may see that."""
    after = aliased(StopTask)
    query = (
        select(after.id)
        .where(after.retry_of == StopTask.id)
        .order_by(after.accepted_at.desc(), after.id.desc())
        .limit(in_the_text(1, "newest"))
    )
    if sees_only is not None:
        query = query.where(after.workspace_id == sees_only)
    return query.correlate(StopTask).scalar_subquery()


def _only(row_id: InstrumentedAttribute[Key], condition: ColumnElement[bool]) -> ScalarSelect[Key]:
    """Find the id of one row by its name; no row's id when there is none."""
    # Its own table: it is also joined in the query around it.
    return select(row_id).where(condition).correlate(None).scalar_subquery()


def in_the_text(limit: int, name: str = "rows") -> ColumnElement[int]:
    """Give a limit that stands in the statement's text.

    A plan for any limit takes a tenth of all rows for wanted: it is none for a page.
    """
    return bindparam(name, limit, literal_execute=True)
