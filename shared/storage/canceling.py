"""Taking stops back: compare-and-set on the row (I4).

Locks are taken in the same order as in `claims`: each stop task, then its CVM; of many, in the
order of the CVMs' keys, as accepting stops takes them. The host's is not needed: what is taken back
holds no place on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from sqlalchemy import any_, func, literal, select, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from shared.models.states import StopState
from shared.storage.clock import now
from shared.storage.stop_states import is_still
from shared.tables import Cvm, StopTask


if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session


class StandingStop(NamedTuple):
    """How a stop stands."""

    stop_task_id: UUID
    cvm_id: str
    state: str
    was_force_stopped: bool


def cancel(session: Session, stop_task_ids: Sequence[UUID]) -> set[UUID]:
    """Cancel those that wait for a worker and whose host took no force stop; gives which.

    Their CVMs are in progress no longer. One statement: a worker claims a stop before, and then it
    stays, or finds it canceled.
    """
    ids: Any = literal(list(stop_task_ids), ARRAY(PG_UUID(as_uuid=True)))
    waiting = (
        select(StopTask.id, StopTask.cvm_id)
        .join(Cvm, Cvm.id == StopTask.cvm_id)
        .where(
            StopTask.id == any_(ids),
            is_still(StopTask.state, StopState.SCHEDULED),
            StopTask.force_stopped_at.is_(None),
        )
        .order_by(StopTask.cvm_id)
        .with_for_update(of=[StopTask, Cvm], key_share=True)
        .cte("waiting")
    )
    canceled = (
        update(StopTask)
        .where(StopTask.id == waiting.c.id)
        .values(state=StopState.CANCELED, finished_at=now)
        .returning(StopTask.id)
        .cte("canceled")
    )
    freed = (
        update(Cvm)
        .where(Cvm.id == waiting.c.cvm_id)
        .values(in_progress=False, updated_at=now)
        .cte("freed")
    )
    return set(session.scalars(select(canceled.c.id).add_cte(freed)))


def read_standing(session: Session, stop_task_ids: Sequence[UUID]) -> list[StandingStop]:
    """Read how stops stand now."""
    rows = session.execute(
        select(
            StopTask.id,
            Cvm.hash_id,
            StopTask.state,
            func.coalesce(StopTask.force_stopped_at.is_not(None), False),
        )
        .join(Cvm, Cvm.id == StopTask.cvm_id)
        .where(StopTask.id.in_(stop_task_ids))
        .order_by(StopTask.cvm_id)
    )
    return [StandingStop(*row) for row in rows]
