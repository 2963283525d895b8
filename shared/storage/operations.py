"""What other control planes do with CVMs: written under the lock of the CVM's row (I3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Interval, and_, case, delete, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert

from shared.models.operations import Operation
from shared.storage.clock import now
from shared.tables import Cvm, CvmOperation, User


if TYPE_CHECKING:
    from datetime import timedelta

    from sqlalchemy.orm import Session

    from shared.models.callers import Caller


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedCvm:
    """A CVM whose row is locked: nobody else can begin or end an operation on it."""

    id: int
    hash_id: str
    in_progress: bool


def lock_cvm(session: Session, hash_id: str) -> LockedCvm | None:
    """Lock a CVM with the lock that accepting a stop takes; None when there is no such CVM."""
    row = session.execute(
        select(Cvm.id, Cvm.in_progress).where(Cvm.hash_id == hash_id).with_for_update()
    ).one_or_none()
    if row is None:
        return None
    return LockedCvm(id=row.id, hash_id=hash_id, in_progress=row.in_progress)


def has_operation(session: Session, cvm: LockedCvm) -> bool:
    """Say whether what is in progress on a CVM is another control plane's."""
    found = select(CvmOperation.cvm_id).where(CvmOperation.cvm_id == cvm.id)
    return session.execute(found).one_or_none() is not None


def put_operation(
    session: Session, cvm: LockedCvm, caller: Caller, *, name: str, expires_in: timedelta
) -> Operation:
    """Begin an operation, renew the one of that name, or put it in another's place.

    One that is renewed keeps its start; one that had expired, and that no dispatcher has ended
    yet, begins anew.
    """
    values = {
        "name": name,
        "user_id": caller.user_id,
        "api_key_id": caller.api_key_id,
        "expires_at": now + literal(expires_in, Interval),
    }
    query = insert(CvmOperation).values(cvm_id=cvm.id, started_at=now, **values)
    is_renewed = and_(CvmOperation.name == name, CvmOperation.expires_at > now)
    query = query.on_conflict_do_update(
        index_elements=["cvm_id"],
        set_={**values, "started_at": case((is_renewed, CvmOperation.started_at), else_=now)},
    )
    row = session.execute(
        query.returning(
            CvmOperation.started_at,
            CvmOperation.expires_at,
            select(User.name).where(User.id == caller.user_id).scalar_subquery(),
        )
    ).one()
    if not cvm.in_progress:
        _set_in_progress(session, cvm, value=True)
    started_at, expires_at, user = row
    return Operation(
        cvm_id=cvm.hash_id, name=name, user=user, started_at=started_at, expires_at=expires_at
    )


def end_operation(session: Session, cvm: LockedCvm) -> bool:
    """End the operation on a CVM; False, and nothing changed, when there is none."""
    ended = session.execute(
        delete(CvmOperation).where(CvmOperation.cvm_id == cvm.id).returning(CvmOperation.cvm_id)
    ).one_or_none()
    if ended is None:
        return False
    _set_in_progress(session, cvm, value=False)
    return True


def _set_in_progress(session: Session, cvm: LockedCvm, *, value: bool) -> None:
    session.execute(update(Cvm).where(Cvm.id == cvm.id).values(in_progress=value, updated_at=now))


def end_expired(session: Session, *, limit: int) -> int:
    """End operations whose time is over; gives how many."""
    expired = (
        select(CvmOperation.cvm_id)
        .join(Cvm, Cvm.id == CvmOperation.cvm_id)
        # The transaction's time, which has just begun: an index can be asked for it.
        .where(CvmOperation.expires_at <= func.now())
        .limit(limit)
        # CVMs that a request has locked wait for the next round, as those of overdue stops do. The
        # operation's row too: if it was renewed meanwhile, it is looked at again, and left alone.
        .with_for_update(of=[Cvm, CvmOperation], skip_locked=True, key_share=True)
        .cte("expired")
    )
    ended = (
        delete(CvmOperation)
        .where(CvmOperation.cvm_id == expired.c.cvm_id)
        .returning(CvmOperation.cvm_id)
        .cte("ended")
    )
    freed = (
        update(Cvm)
        .where(Cvm.id == ended.c.cvm_id)
        .values(in_progress=False, updated_at=now)
        .cte("freed")
    )
    return session.execute(select(func.count()).select_from(ended).add_cte(freed)).scalar_one()
