"""VM hosts: how cvmstop is told of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.exceptions import InvalidValueError, NameTakenError, NotFoundError
from shared.models.hosts import HostCredentials
from shared.models.naming import require_name, require_text
from shared.services.access import require_workspace
from shared.storage import inventory as storage


if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy.orm import Session

    from shared.sealing import Sealer
    from shared.tables import VmHost


def add_host(
    session: Session,
    sealer: Sealer,
    *,
    name: str,
    address: str,
    driver: str = "dstack",
    cap: int | None = None,
    credentials: HostCredentials | None = None,
    replace: bool = False,
) -> None:
    """Add a host. Nothing is sent to it.

    Parameters
    ----------
    session
        Open transaction.
    sealer
        Seals the credentials.
    name, address, driver
        The address must be one that the driver can read; this is not checked here.
    cap
        How many stops may run on the host at once; None for `DEFAULT_CAP`, or what it was.
    credentials
        What the host wants to see; None for nothing.
    replace
        Write address, driver and credentials of a host of that name anew; its cap stays when none
        is given, and so does where its VMs go (`set_adoption`).

    Raises
    ------
    InvalidValueError
        The name is none, the cap is less than 1, or the address cannot be stored.
    NameTakenError
        There is a host of that name, and it is not to be replaced.
    """
    require_name(name, "host")
    require_text(address, "the address")
    if cap is not None and cap < 1:
        msg = "a host's cap is at least 1"
        raise InvalidValueError(msg)
    sealed = None
    if credentials is not None and credentials != HostCredentials():
        sealed = sealer.seal(credentials.to_bytes())
    if not storage.put_host(
        session,
        name=name,
        driver=driver,
        address=address,
        cap=cap,
        sealed_credentials=sealed,
        replace=replace,
    ):
        msg = f"there is a host {name} already: give --replace to write what it is like anew"
        raise NameTakenError(msg)


def set_adoption(session: Session, name: str, workspace: str | None) -> None:
    """Say which workspace VMs go to that a host lists and nobody knows; None for none.

    Nothing happens to any VM before the host's next sync.

    Raises
    ------
    NotFoundError
        There is no such host or workspace.
    """
    (host,) = require_hosts(session, [name])
    host.adopts_into = None if workspace is None else require_workspace(session, workspace).id
    session.flush()


def require_hosts(session: Session, names: Collection[str]) -> Sequence[VmHost]:
    """Find hosts by name; all of them when no name is given.

    Raises
    ------
    NotFoundError
        Names each that is not there.
    """
    for name in names:
        require_name(name, "host")
    hosts = storage.find_hosts(session, names or None)
    missing = sorted(set(names) - {host.name for host in hosts})
    if missing:
        msg = f"there is no host {', '.join(missing)}"
        raise NotFoundError(msg)
    return hosts


def set_disabled(session: Session, names: Collection[str], *, disabled: bool) -> None:
    """Take hosts out, or in again; again is no error.

    No stop is accepted on a host that is out. Those that were accepted before go on, with all
    their tries: an accepted stop is never lost.

    Raises
    ------
    NotFoundError
        Names each that is not there; nothing was changed.
    """
    hosts = require_hosts(session, names)
    storage.set_disabled(session, [host.id for host in hosts], disabled=disabled)
