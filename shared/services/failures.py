"""What failed, and why: by reason and host."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shared.models.errors import ErrorCode
from shared.models.overview import FailureGroup, FailureGroups
from shared.models.states import StopState
from shared.storage import failures as storage


if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from shared.models.callers import Caller
    from shared.models.pages import StopFilter

MOST_GROUPS = 100
"""Groups that are told of at most, the biggest."""


def group_failures(session: Session, caller: Caller, wanted: StopFilter) -> FailureGroups:
    """Group the failed stops that the caller may see by error code and host.

    What is wanted of their state is passed over. Those that were tried again are among them unless
    `wanted.retried` is False: what became of a retry is said by the retry, which is a stop too.
    """
    found = storage.group_failures(
        session,
        replace(wanted, states=(StopState.FAILED,)),
        sees_only=caller.sees_only,
        limit=MOST_GROUPS,
    )
    groups = [
        FailureGroup(
            error_code=ErrorCode(group.error_code),
            host=group.host,
            count=group.failures,
            oldest_at=group.oldest_at,
            newest_at=group.newest_at,
            sample_id=group.sample_id,
            sample_message=group.sample_message,
        )
        for group in found.groups
    ]
    return FailureGroups(
        groups=tuple(groups),
        counted=found.counted,
        left_out=found.number - len(groups),
        is_cut_off=found.is_cut_off,
    )
