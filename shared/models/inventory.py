"""What an import says of CVMs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class CvmRecord:
    """One CVM, as a line of a file has it."""

    line: int
    """Where it stands in the file, from 1."""
    hash_id: str
    name: str
    workspace: str
    """The workspace's name."""
    host: str | None
    """The host's name; None while the CVM is on none."""
    vm_uuid: str | None
    status: str | None
    """None leaves it as it is (`unknown` for a new CVM)."""
    gpu_rental_order: str | None
    keeps_gpu_rental_order: bool
    """The file does not say: an order that is there must not be lost, it keeps a CVM from stops."""


@dataclass(frozen=True, kw_only=True)
class ImportCounts:
    """What an import did."""

    added: int
    updated: int
