"""The options by which `cvmstop failures` finds failures, and what they are to the API."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from shared.models.errors import ErrorCode
from shared.models.states import StopState


if TYPE_CHECKING:
    from collections.abc import Mapping

TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]

Host = Annotated[str | None, typer.Option("--host", metavar="NAME", help="Only on this host.")]
Workspace = Annotated[
    str | None, typer.Option("--workspace", metavar="NAME", help="Only of this workspace.")
]
Code = Annotated[
    ErrorCode | None, typer.Option("--error-code", metavar="CODE", help="Only for this reason.")
]
CvmId = Annotated[str | None, typer.Option("--cvm", metavar="ID", help="Only of this CVM.")]
BatchId = Annotated[UUID | None, typer.Option("--batch", metavar="ID", help="Only of this batch.")]
RequestId = Annotated[
    str | None,
    typer.Option("--request-id", metavar="ID", help="Only of this request, as log lines have it."),
]
Since = Annotated[
    datetime | None,
    typer.Option(
        "--since",
        formats=TIMES,
        metavar="TIME",
        help="Only accepted since, such as 2026-01-31 or 2026-01-31T14:00:00, local time.",
    ),
]


def as_query(
    *,
    host: str | None,
    workspace: str | None,
    error_code: ErrorCode | None,
    cvm: str | None,
    batch: UUID | None,
    request_id: str | None,
    since: datetime | None,
) -> dict[str, str]:
    """Give those that are set, as parameters of the API's query for stop tasks."""
    given = {
        "host": host,
        "workspace": workspace,
        "error_code": error_code,
        "cvm_id": cvm,
        "batch_id": batch,
        "request_id": request_id,
        # A time without a zone is the caller's own.
        "accepted_from": since.astimezone().isoformat() if since else None,
    }
    return {name: str(value) for name, value in given.items() if value is not None}


def only_failed(wanted: Mapping[str, str]) -> dict[str, str]:
    """Add that they have failed; not where the API shows nothing else."""
    return {"state": str(StopState.FAILED), **wanted}


def in_words(wanted: Mapping[str, str]) -> str:
    """Say which filters are set, to be put behind something."""
    filters = ", ".join(f"{name} {value}" for name, value in wanted.items())
    return f", with these filters: {filters}" if filters else ""
