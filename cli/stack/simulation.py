"""What a stack has to work on: simulated hosts, CVMs on them, and who may stop those."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, uuid5

from shared.database import driver_of
from shared.exceptions import (
    AuthenticationError,
    KeyNotAllowedError,
    NameTakenError,
    StackError,
)
from shared.models.inventory import CvmRecord
from shared.models.states import UserRole


if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sqlalchemy.orm import Session

    from cli.stack.data_dir import DataDir
    from shared.sealing import Sealer

ID_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""What the random-looking part of a CVM's id consists of."""

ID_LENGTH = 8
"""How long that part is."""

ID_STEP = 1_746_860_020_069
"""Scatters the ids of neighbours: prime to 36, so that no two of the 36^8 first are the same."""

KEY_NAME = "made by cvmstop up"
"""What the API keys are for, in `cvmstop keys list`."""


@dataclass(frozen=True, kw_only=True)
class SimulatedHost:
    """One simulated host: process, row and log have its name."""

    name: str
    options: tuple[str, ...] = ()
    """More options for `cvmstop simulate-host`."""

    def vms_file(self, data_dir: DataDir) -> Path:
        """Say where its VMs are written down, for when it is started again."""
        return data_dir.hosts / f"{self.name}.jsonl"

    def journal(self, data_dir: DataDir) -> Path:
        """Say where it logs each request, as JSON lines."""
        return data_dir.logs / f"{self.name}.jsonl"


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What there is, before anybody has done anything.

    CVMs are dealt out: to the workspaces in turn, and within each to the hosts in turn. So a
    larger number only adds CVMs to those of a smaller.
    """

    workspaces: tuple[str, ...]
    user: str
    """A member of the first workspace; there is an admin besides."""
    hosts: tuple[SimulatedHost, ...] = ()
    cvms: int = 0

    def records(self) -> Iterator[CvmRecord]:
        """Give the CVMs."""
        for number in range(self.cvms):
            round_, place = divmod(number, len(self.workspaces))
            host = self.hosts[round_ % len(self.hosts)].name
            yield CvmRecord(
                line=number + 1,
                hash_id=cvm_id(number),
                name=f"simulated {number}",
                workspace=self.workspaces[place],
                host=host,
                vm_uuid=str(uuid5(NAMESPACE_URL, f"cvmstop:simulated:{number}")),
                status="running",
                gpu_rental_order=None,
                keeps_gpu_rental_order=True,
            )


ADMIN = "admin"
"""Name of the admin of every stack."""

EMPTY = Inventory(workspaces=("default",), user="user")
"""Nothing to stop yet, but keys to begin with."""

SIMULATED_OPTIONS = ("--latency=0.02", "--stop-seconds=1")
"""Healthy hosts: answers in 20 ms, a VM down a second after it was killed."""


def simulated(cvms: int) -> Inventory:
    """Three healthy hosts with CVMs of two workspaces."""
    hosts = tuple(
        SimulatedHost(name=f"simulated-host-{number}", options=SIMULATED_OPTIONS)
        for number in (1, 2, 3)
    )
    return Inventory(workspaces=("acme", "globex"), user="alice", hosts=hosts, cvms=cvms)


def cvm_id(number: int) -> str:
    """Give the public id of a CVM: always the same, and no two alike."""
    value = (number + 1) * ID_STEP % len(ID_DIGITS) ** ID_LENGTH
    digits = ""
    for _ in range(ID_LENGTH):
        value, digit = divmod(value, len(ID_DIGITS))
        digits += ID_DIGITS[digit]
    return f"cvm_{digits}"


def write_vms(data_dir: DataDir, inventory: Inventory) -> None:
    """Write for each host the file of its VMs."""
    lines: dict[str, list[str]] = {host.name: [] for host in inventory.hosts}
    for record in inventory.records():
        if record.host is not None:
            vm = {"id": record.vm_uuid, "name": record.name}
            lines[record.host].append(json.dumps(vm) + "\n")
    for host in inventory.hosts:
        host.vms_file(data_dir).write_text("".join(lines[host.name]))


def provision(
    session: Session, sealer: Sealer, inventory: Inventory, addresses: Mapping[str, str]
) -> None:
    """Write an inventory into the database; what is there already is brought up to date.

    Parameters
    ----------
    session
        Open transaction.
    sealer
        Seals hosts' credentials; simulated ones have none.
    inventory
        What there is to be. Its CVMs run again, as simulated hosts begin with running VMs.
    addresses
        Where each host is now, by name.
    """
    from shared.services import access
    from shared.services.cvm_file import CvmFile
    from shared.services.cvm_import import import_cvms
    from shared.services.hosts import add_host

    for workspace in inventory.workspaces:
        with suppress(NameTakenError):
            access.create_workspace(session, workspace)
    home = inventory.workspaces[0]
    for name, role in ((ADMIN, UserRole.ADMIN), (inventory.user, UserRole.USER)):
        try:
            access.create_user(session, name, role=role, workspaces=[home])
        except NameTakenError:
            access.add_to_workspace(session, name, home)
    for name, address in addresses.items():
        add_host(session, sealer, name=name, address=address, replace=True)
    if inventory.cvms:
        import_cvms(session, CvmFile(records=list(inventory.records()), problems=[]))


def ensure_key(
    session: Session, kept: Mapping[str, str], *, user: str, workspace: str
) -> tuple[str, str]:
    """Give what a key is kept under, and a key that works: the kept one, or else a new one.

    Raises
    ------
    StackError
        Somebody has revoked the user since.
    """
    from shared.services.access import create_key
    from shared.services.authentication import authenticate

    label = f"{user}@{workspace}"
    with suppress(AuthenticationError):
        authenticate(driver_of(session), kept.get(label))
        return label, kept[label]
    try:
        made = create_key(session, user=user, workspace=workspace, name=KEY_NAME, valid_for=None)
    except KeyNotAllowedError:
        msg = (
            f"user {user}, as whom this stack shows itself, was revoked, which is for good:"
            " begin anew with another --data-dir"
        )
        raise StackError(msg) from None
    return label, made.plain
