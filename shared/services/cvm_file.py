"""Reading a file of CVMs: CSV with a header, or JSON lines. Nothing here asks the database."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, BinaryIO, TextIO

from shared.models.inventory import CvmRecord
from shared.models.naming import CVM_ID, NAME, STATUS, VM_UUID, text_problem


if TYPE_CHECKING:
    import re
    from collections.abc import Iterator

FIELDS = ("id", "name", "workspace", "host", "vm_uuid", "status", "gpu_rental_order")
"""Every field that a line may have."""

REQUIRED_FIELDS = ("id", "name", "workspace")
"""Those that each line must fill."""

PATTERNS: dict[str, tuple[re.Pattern[str], str]] = {
    "id": (CVM_ID, "'cvm_' and 1 to 60 of letters, digits, '_' and '-'"),
    "workspace": (NAME, "a workspace's name"),
    "host": (NAME, "a host's name"),
    "vm_uuid": (VM_UUID, "1 to 64 of letters, digits, '_' and '-'"),
    "status": (STATUS, "1 to 63 of letters, digits, '_' and '-'"),
}
"""What a field must look like, and how a person is told."""

Row = dict[str, object] | str
"""A line's fields, or what is wrong with the line as a whole."""


class FileFormat(StrEnum):
    """How a file of CVMs is written."""

    CSV = "csv"
    """Comma separated, the first line names the columns."""
    JSONL = "jsonl"
    """One JSON object on each line."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with one line."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class CvmFile:
    """What a file says: the lines that can be read, and what is wrong with the others."""

    records: list[CvmRecord]
    problems: list[Problem]


def read_cvm_file(stream: BinaryIO, file_format: FileFormat) -> CvmFile:
    """Read a whole file, in UTF-8 (a byte order mark is skipped).

    Bad lines raise nothing: they come back as problems, so that a person sees all of them at once.
    Ids and VMs that come twice are among them.
    """
    # What is not UTF-8 becomes surrogates, which the checks of each field find.
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    records: list[CvmRecord] = []
    problems: list[Problem] = []
    ids: dict[str, int] = {}
    vms: dict[tuple[str, str], int] = {}
    for line, row in _read_csv(text) if file_format is FileFormat.CSV else _read_jsonl(text):
        wrong = [row] if isinstance(row, str) else _problems(row)
        if isinstance(row, str) or wrong:
            problems.append(Problem(line, "; ".join(wrong)))
            continue
        record = _record(line, row)
        earlier = ids.setdefault(record.hash_id, line)
        if earlier != line:
            problems.append(Problem(line, f"id {record.hash_id} is on line {earlier} already"))
            continue
        if record.host is not None and record.vm_uuid is not None:
            earlier = vms.setdefault((record.host, record.vm_uuid), line)
            if earlier != line:
                what = f"vm_uuid {record.vm_uuid} on host {record.host}"
                problems.append(Problem(line, f"{what} is on line {earlier} already"))
                continue
        records.append(record)
    text.detach()
    return CvmFile(records=records, problems=problems)


def _read_csv(text: TextIO) -> Iterator[tuple[int, Row]]:
    """Give each row with the number of its first line; stops at a header that cannot be used."""
    reader = csv.reader(text, strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, f"is not CSV: {error}"
            if header is None:
                return
            continue
        if not cells:
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            if problem := _header_problem(header):
                yield line, problem
                return
        elif len(cells) != len(header):
            yield line, f"has {len(cells)} cells, the header has {len(header)}"
        else:
            yield line, dict(zip(header, cells, strict=True))


def _header_problem(header: list[str]) -> str | None:
    unknown = [name for name in header if name not in FIELDS]
    if unknown:
        names = ", ".join(repr(name[:80]) for name in unknown)
        return f"unknown columns {names}; the header may have {', '.join(FIELDS)}"
    missing = [name for name in REQUIRED_FIELDS if name not in header]
    if missing:
        return f"the header has no {', '.join(missing)}"
    if len(set(header)) != len(header):
        return "the header has a column twice"
    return None


def _read_jsonl(text: TextIO) -> Iterator[tuple[int, Row]]:
    """Give each line that is not blank."""
    for line, content in enumerate(text, start=1):
        if not content.strip():
            continue
        try:
            value = json.loads(content.rstrip("\r\n"))
        except json.JSONDecodeError as error:
            yield line, f"is not JSON: {error.msg} at character {error.pos + 1}"
        except (ValueError, RecursionError):
            yield line, "is not JSON that can be read: a number or its nesting goes too far"
        else:
            yield line, value if isinstance(value, dict) else "is not a JSON object"


def _problems(row: dict[str, object]) -> list[str]:
    """Say everything that is wrong with one line's fields."""
    found = [f"unknown field {name[:80]!r}" for name in row if name not in FIELDS]
    found += [f"{name} is missing" for name in REQUIRED_FIELDS if row.get(name) in (None, "")]
    for name in FIELDS:
        value = row.get(name)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            found.append(f"{name} must be a string")
        elif name not in PATTERNS:
            if problem := text_problem(value):
                found.append(f"{name} {problem}")
        elif not PATTERNS[name][0].fullmatch(value):
            found.append(f"{name} {value[:80]!r} must be {PATTERNS[name][1]}")
    if row.get("vm_uuid") and not row.get("host"):
        found.append("vm_uuid without host")
    return found


def _record(line: int, row: dict[str, object]) -> CvmRecord:
    """Make a record of a line without problems: its values are strings or null."""
    texts = {name: str(value) for name, value in row.items() if value}
    return CvmRecord(
        line=line,
        hash_id=texts["id"],
        name=texts["name"],
        workspace=texts["workspace"],
        host=texts.get("host"),
        vm_uuid=texts.get("vm_uuid"),
        status=texts.get("status"),
        gpu_rental_order=texts.get("gpu_rental_order"),
        keeps_gpu_rental_order="gpu_rental_order" not in row,
    )
