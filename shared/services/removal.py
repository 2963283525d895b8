"""Taking hosts and CVMs out of the inventory, as long as nothing refers to them.

What was stopped stays on record, and so do the CVM and the host that it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.exceptions import InvalidValueError, NotFoundError, RemovalRefusedError
from shared.models.naming import CVM_ID
from shared.services.hosts import require_hosts
from shared.storage import cvm_records, inventory


if TYPE_CHECKING:
    from collections.abc import Collection

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
    inventory.lock_host(session, host)
    cvms = inventory.count_cvms(session, host.id)
    stops = inventory.count_stops(session, host.id)
    drifts = inventory.count_drifts(session, host.id)
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
    if drifts:
        msg = (
            f"host {name} was not removed: it is on record that CVMs ran again on it ({drifts}),"
            " which is deleted with their stops, and so can the host be"
        )
        raise RemovalRefusedError(msg)
    inventory.delete_host(session, host.id)


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
    found = cvm_records.lock_cvms(session, hash_ids)
    if missing := sorted(set(hash_ids) - found.keys()):
        msg = f"nothing was removed: there is no CVM {', '.join(missing)}"
        raise NotFoundError(msg)
    problems = []
    if busy := sorted(hash_id for hash_id, cvm in found.items() if cvm.in_progress):
        problems.append(f"an operation is in progress on {', '.join(busy)}: wait for its end")
    if stopped := cvm_records.find_stopped(session, found.keys() - set(busy)):
        problems.append(
            f"of {', '.join(stopped)} stops stay on record, and so does the CVM;"
            " import it without host and vm_uuid instead, so that it cannot be stopped"
        )
    if problems:
        msg = f"nothing was removed: {'; '.join(problems)}"
        raise RemovalRefusedError(msg)
    cvm_records.delete_cvms(session, found)
    return len(found)
