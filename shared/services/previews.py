"""What a batch stop would do with each CVM, one by one and with the reason, for people to see."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from shared.models.actions import Obstacle
from shared.storage import cvm_views


if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import RowMapping
    from sqlalchemy.orm import Session

    from shared.models.callers import Caller


class Verdict(StrEnum):
    """What would become of one CVM. As a batch stop counts it."""

    STOP = "stop"
    SKIP = "skip"
    REFUSE = "refuse"


@dataclass(frozen=True, kw_only=True)
class PreviewedCvm:
    """One CVM that was asked for."""

    cvm_id: str
    """As it was asked for, any text."""
    verdict: Verdict
    obstacle: Obstacle | None
    """Why it is not stopped."""
    row: RowMapping | None
    """`cvm_views.COLUMNS`; None for one that the caller may not see."""


def preview_cvms(session: Session, caller: Caller, cvm_ids: Sequence[str]) -> list[PreviewedCvm]:
    """Say of each CVM what a batch stop would do now; nothing is written or locked.

    Parameters
    ----------
    session
        Open transaction.
    caller
        Who asks.
    cvm_ids
        Each once.
    """
    found = cvm_views.find_cvms(session, cvm_ids, sees_only=caller.sees_only)
    rows = {row["id"]: row for row in found}
    return [_judge(cvm_id, rows.get(cvm_id)) for cvm_id in cvm_ids]


def _judge(cvm_id: str, row: RowMapping | None) -> PreviewedCvm:
    """Apply the rules of `shared.services.batch_stop`, in their order."""
    obstacle = _obstacle(row)
    verdict = Verdict.STOP
    if obstacle is not None:
        verdict = Verdict.REFUSE if obstacle.is_an_error else Verdict.SKIP
    return PreviewedCvm(cvm_id=cvm_id, verdict=verdict, obstacle=obstacle, row=row)


def _obstacle(row: RowMapping | None) -> Obstacle | None:
    if row is None:
        return Obstacle.CVM_NOT_FOUND
    rules = {
        Obstacle.IN_PROGRESS: row["in_progress"],
        Obstacle.NO_VM: row["vm_uuid"] is None,
        Obstacle.GPU_RENTAL: row["gpu_rental_order"] is not None,
        Obstacle.HOST_DISABLED: row["host_is_disabled"],
    }
    return next((obstacle for obstacle, applies in rules.items() if applies), None)
