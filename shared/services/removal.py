"""Taking hosts and CVMs out of the inventory, as long as nothing refers to them.

What was stopped stays on record, and so do the CVM and the host that it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select

from shared.exceptions import InvalidValueError, NotFoundError, RemovalRefusedError
from shared.models.naming import CVM_ID
from shared.services.hosts import require_hosts
from shared.storage.cvm_records import lock_cvms
from shared.tables import Cvm, StopTask, VmHost


if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sqlalchemy import Select
    from sqlalchemy.orm import Session


def remove_host(session: Session, name: str) -> None:
    """Remove a host that no CVM and no stop refers to.

    Raises
    ------
    NotFoundError
        There is no such host.
    RemovalRefusedError
        Says how many refer to it, and what to do.
    """
    (host,) = require_hosts(session, [name])
    # Who wants to refer to the host waits now, and finds it gone: the counts stay right.
    session.refresh(host, with_for_update=True)
    cvms = _count(session, select(func.count()).where(Cvm.vm_host_id == host.id))
    stops = _count(session, select(func.count()).where(StopTask.vm_host_id == host.id))
    if stops:
        msg = (
            f"host {name} was not removed: stops on it stay on record ({stops}), and so does it;"
            f" CVMs on it: {cvms}; without CVMs nothing is sent to it"
        )
        raise RemovalRefusedError(msg)
    if cvms:
        msg = (
            f"host {name} was not removed: CVMs on it: {cvms};"
            " remove them, or import them with another host or none, first"
        )
        raise RemovalRefusedError(msg)
    session.execute(delete(VmHost).where(VmHost.id == host.id))


def remove_cvms(session: Session, hash_ids: Collection[str]) -> int:
    """Remove CVMs that were never stopped from here: all of them or none; gives how many.

    Raises
    ------
    InvalidValueError
        One of the ids is none.
    NotFoundError
        Names each that is not there.
    RemovalRefusedError
        Names each with an operation in progress or with stops on record, and says what to do.
    """
    for hash_id in hash_ids:
        if not CVM_ID.fullmatch(hash_id):
            msg = f"{hash_id[:100]!r} is no CVM's id: `cvmstop cvms list` shows them"
            raise InvalidValueError(msg)
    found = lock_cvms(session, hash_ids)
    if missing := sorted(set(hash_ids) - found.keys()):
        msg = f"nothing was removed: there is no CVM {', '.join(missing)}"
        raise NotFoundError(msg)
    problems = []
    if busy := sorted(hash_id for hash_id, cvm in found.items() if cvm.in_progress):
        problems.append(f"an operation is in progress on {', '.join(busy)}: wait for its end")
    if stopped := _with_stops(session, found.keys() - set(busy)):
        problems.append(
            f"of {', '.join(stopped)} stops stay on record, and so does the CVM;"
            " import it without host and vm_uuid instead, so that it cannot be stopped"
        )
    if problems:
        msg = f"nothing was removed: {'; '.join(problems)}"
        raise RemovalRefusedError(msg)
    session.execute(delete(Cvm).where(Cvm.hash_id.in_(found)))
    return len(found)


def _with_stops(session: Session, hash_ids: Iterable[str]) -> list[str]:
    stops = select(StopTask.id).where(StopTask.cvm_id == Cvm.id)
    query = select(Cvm.hash_id).where(Cvm.hash_id.in_(hash_ids), stops.exists())
    return list(session.scalars(query.order_by(Cvm.hash_id)))


def _count(session: Session, query: Select[int]) -> int:
    return session.scalars(query).one()
