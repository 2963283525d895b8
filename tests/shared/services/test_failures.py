"""Failures by reason and host, and what a member does not see of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shared.models.errors import ErrorCode
from shared.models.pages import StopFilter
from shared.models.states import StopState
from shared.services import failures as service
from shared.services.failures import group_failures
from shared.storage import failures as storage


if TYPE_CHECKING:
    from shared.tables import Cvm, StopTask
    from tests.shared.services.conftest import Town


def fail(
    town: Town, cvm: Cvm, code: ErrorCode = ErrorCode.HOST_UNREACHABLE, **columns: Any
) -> StopTask:
    columns.setdefault("error_message", f"{code} on {cvm.hash_id}")
    return town.stop(cvm, state=StopState.FAILED, error_code=code, **columns)


def test_by_reason_and_host_the_biggest_first(town: Town) -> None:
    oldest = fail(town, town.ours, ago=300.0)
    newest = fail(town, town.theirs, ago=100.0)
    fail(town, town.ours, ago=200.0)
    fail(town, town.ours, ErrorCode.BAD_ANSWER)
    fail(town, town.ours, host=town.other, ago=50.0)
    town.stop(town.ours)
    found = group_failures(town.session, town.admin, StopFilter())
    assert [(group.count, group.error_code, group.host) for group in found.groups] == [
        (3, "host_unreachable", "node-1"),
        (1, "bad_answer", "node-1"),
        (1, "host_unreachable", "node-2"),
    ]
    first = found.groups[0]
    assert (first.oldest_at, first.newest_at) == (oldest.accepted_at, newest.accepted_at)
    assert (first.sample_id, first.sample_message) == (newest.id, newest.error_message)
    assert (found.counted, found.left_out, found.is_cut_off) == (5, 0, False)


def test_none(town: Town) -> None:
    found = group_failures(town.session, town.admin, StopFilter())
    assert (found.groups, found.counted, found.is_cut_off) == ((), 0, False)


def test_filters_hold_and_of_states_there_is_one(town: Town) -> None:
    fail(town, town.ours)
    fail(town, town.ours, ErrorCode.BAD_ANSWER)
    town.stop(town.ours)
    wanted = StopFilter(error_code=ErrorCode.BAD_ANSWER, states=(StopState.SUCCEEDED,))
    (only,) = group_failures(town.session, town.admin, wanted).groups
    assert (only.error_code, only.count) == ("bad_answer", 1)


def test_what_was_tried_again_can_be_left_out(town: Town) -> None:
    """The retry stands for it: it is counted itself if it has failed too."""
    first = fail(town, town.ours)
    fail(town, town.ours, retry_of=first.id)
    for retried, count in ((None, 2), (True, 1), (False, 1)):
        (only,) = group_failures(town.session, town.admin, StopFilter(retried=retried)).groups
        assert only.count == count
        assert (only.sample_id == first.id) == (retried is True)


def test_what_was_not_read_is_said(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "MOST_READ", 2)
    monkeypatch.setattr(service, "MOST_GROUPS", 1)
    fail(town, town.ours, ago=50.0)
    fail(town, town.ours, ErrorCode.BAD_ANSWER)
    found = group_failures(town.session, town.admin, StopFilter())
    assert (found.counted, found.left_out, found.is_cut_off) == (2, 1, False)
    assert [group.error_code for group in found.groups] == ["bad_answer"]
    fail(town, town.ours, ago=100.0)
    found = group_failures(town.session, town.admin, StopFilter())
    assert (found.counted, found.is_cut_off) == (2, True)


def test_a_member_learns_only_its_own(town: Town) -> None:
    fail(town, town.theirs)
    ours = fail(town, town.ours)
    # The CVM was moved, and there it was tried again.
    fail(town, town.theirs, retry_of=ours.id)
    for retried in (None, False):
        (only,) = group_failures(town.session, town.member, StopFilter(retried=retried)).groups
        assert (only.count, only.sample_id) == (1, ours.id)
    assert group_failures(town.session, town.member, StopFilter(retried=True)).groups == ()
