"""Importing CVMs: all lines of a file, or none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

from shared.exceptions import ImportRefusedError
from shared.models.hosts import UUID_DRIVERS
from shared.models.inventory import ImportCounts
from shared.services.cvm_file import Problem
from shared.storage import cvm_records as storage
from shared.tables import VmHost, Workspace


if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import Session

    from shared.models.inventory import CvmRecord
    from shared.services.cvm_file import CvmFile
    from shared.storage.cvm_records import KnownCvm, Vm


def import_cvms(session: Session, file: CvmFile) -> ImportCounts:
    """Add the CVMs of a file, and bring those up to date that are there.

    `in_progress` is never touched, and a CVM with an operation in progress keeps its host and
    `vm_uuid`: what runs was meant for that VM.

    Raises
    ------
    ImportRefusedError
        Has every bad line: those of the file itself, and those that do not fit what is in the
        database. Nothing was written.
    """
    with storage.own_turn(session):
        return _import(session, file)


def _import(session: Session, file: CvmFile) -> ImportCounts:
    records, problems = _in_their_hosts_form(session, file.records)
    found = _Found(session, records)
    problems += [*file.problems, *found.problems()]
    if problems:
        raise ImportRefusedError([str(p) for p in sorted(problems, key=lambda p: p.line)])
    # A VM may pass from one CVM of the file to another: nobody has it for a moment, so that the
    # unique constraint, which looks at each row as it is written, does not see it twice.
    storage.take_vms_away(session, found.giving_up_a_wanted_vm())
    storage.put_cvms(session, records, workspaces=found.workspaces, hosts=found.hosts)
    return ImportCounts(
        added=len(records) - len(found.known),
        updated=len(found.known),
    )


def _in_their_hosts_form(
    session: Session, records: list[CvmRecord]
) -> tuple[list[CvmRecord], list[Problem]]:
    """Write UUIDs of VMs as their hosts list them: by others a sync would not know the CVM."""
    names = {record.host for record in records if record.host}
    hosts = storage.hosts_by_driver(session, names, UUID_DRIVERS)
    written: list[CvmRecord] = []
    problems: list[Problem] = []
    lines: dict[tuple[str, str], int] = {}
    for record in records:
        if record.host not in hosts or record.vm_uuid is None:
            written.append(record)
            continue
        try:
            vm_uuid = str(UUID(record.vm_uuid))
        except ValueError:
            what = f"vm_uuid {record.vm_uuid} is no UUID, as those of host {record.host} are"
            problems.append(Problem(record.line, what))
            continue
        earlier = lines.setdefault((record.host, vm_uuid), record.line)
        if earlier != record.line:
            what = f"vm_uuid {vm_uuid} on host {record.host} is in line {earlier} already"
            problems.append(Problem(record.line, what))
        written.append(replace(record, vm_uuid=vm_uuid))
    return written, problems


class _Found:
    """What the database has of the things that a file's lines name; its CVMs are locked."""

    def __init__(self, session: Session, records: list[CvmRecord]) -> None:
        self._records = records
        self.workspaces = storage.find_ids(session, Workspace, {r.workspace for r in records})
        self.hosts = storage.find_ids(session, VmHost, {r.host for r in records if r.host})
        self.known: dict[str, KnownCvm] = storage.lock_cvms(session, [r.hash_id for r in records])
        wanted = [vm for record in records if (vm := self._vm(record))]
        self._owners = storage.find_owners(session, wanted)

    def problems(self) -> Iterator[Problem]:
        """Say what is wrong with each line."""
        in_file = {record.hash_id for record in self._records}
        for record in self._records:
            if record.workspace not in self.workspaces:
                yield Problem(record.line, f"there is no workspace {record.workspace}")
            if record.host and record.host not in self.hosts:
                yield Problem(record.line, f"there is no host {record.host}")
                continue
            known = self.known.get(record.hash_id)
            if known and known.in_progress and known.vm != self._place(record):
                yield Problem(
                    record.line,
                    f"{record.hash_id} has an operation in progress:"
                    " its host and vm_uuid cannot change until that is over",
                )
            vm = self._vm(record)
            owner = self._owners.get(vm) if vm else None
            if owner is not None and owner not in in_file:
                what = f"vm_uuid {record.vm_uuid} on host {record.host}"
                yield Problem(record.line, f"{what} belongs to {owner} already")

    def giving_up_a_wanted_vm(self) -> list[str]:
        """Give the CVMs of the file whose VM goes to another one of it."""
        return [
            owner
            for record in self._records
            if (vm := self._vm(record))
            and (owner := self._owners.get(vm)) is not None
            and owner != record.hash_id
        ]

    def _place(self, record: CvmRecord) -> tuple[UUID | None, str | None]:
        return self.hosts.get(record.host) if record.host else None, record.vm_uuid

    def _vm(self, record: CvmRecord) -> Vm | None:
        host, vm_uuid = self._place(record)
        return (host, vm_uuid) if host is not None and vm_uuid is not None else None
