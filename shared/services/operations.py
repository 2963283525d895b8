"""What another control plane may say of a CVM: that it works on it, and that it has done so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.exceptions import CvmBusyError, NotFoundError
from shared.models.batches import CVM_NOT_FOUND
from shared.storage import operations as storage


if TYPE_CHECKING:
    from datetime import timedelta

    from sqlalchemy.orm import Session

    from shared.models.callers import Caller
    from shared.models.operations import Operation
    from shared.storage.operations import LockedCvm


def put_operation(
    session: Session, caller: Caller, hash_id: str, *, name: str, expires_in: timedelta
) -> Operation:
    """Write down that an operation is open on a CVM: a new one, or the same for longer.

    Parameters
    ----------
    session
        In an open transaction.
    caller
        An admin.
    hash_id
        The CVM's public id.
    name
        What is done with it.
    expires_in
        When it ends by itself, from now.

    Raises
    ------
    NotFoundError
        There is no such CVM.
    CvmBusyError
        A stop is open on it.
    """
    cvm = _lock(session, hash_id)
    # A statement of its own: it sees what was committed before the lock was got.
    if cvm.in_progress and not storage.has_operation(session, cvm):
        where = f"GET /api/v1/stop-tasks?cvm_id={hash_id}"
        msg = f"a stop is open on {hash_id}: wait for its end ({where})"
        raise CvmBusyError(msg)
    return storage.put_operation(session, cvm, caller, name=name, expires_in=expires_in)


def clear_operation(session: Session, hash_id: str) -> None:
    """Write down that no other control plane works on a CVM; a stop on it goes on undisturbed.

    Raises
    ------
    NotFoundError
        There is no such CVM.
    """
    storage.end_operation(session, _lock(session, hash_id))


def _lock(session: Session, hash_id: str) -> LockedCvm:
    cvm = storage.lock_cvm(session, hash_id)
    if cvm is None:
        raise NotFoundError(CVM_NOT_FOUND)
    return cvm
