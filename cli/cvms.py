"""`cvmstop cvms`."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated

import typer

from cli import edge
from cli.output import AsJson, AsWide, show_rows
from shared.exceptions import ImportRefusedError
from shared.services.cvm_file import FileFormat, read_cvm_file


app = typer.Typer(
    help="CVMs: import, list, unassigned, remove.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

SUFFIXES = {
    ".csv": FileFormat.CSV,
    ".jsonl": FileFormat.JSONL,
    ".ndjson": FileFormat.JSONL,
    ".json": FileFormat.JSONL,
}
"""What a file is, by the end of its name."""

COLUMNS = ["id", "name", "workspace", "host", "status", "in_progress", "drift_noticed_at"]
"""What a table shows of a CVM; the last if one of them has drifted."""

ALL_COLUMNS = [
    *("id", "name", "workspace", "host", "vm_uuid", "status", "in_progress"),
    *("gpu_rental_order", "seen_at", "vanished_at", "drift_noticed_at", "drift_host"),
]

MOST_PROBLEMS = 100
"""Bad lines that are shown; whoever has more of them has one mistake in all lines."""


@app.command("import")
def import_(
    file: Annotated[
        typer.FileBinaryRead, typer.Argument(metavar="FILE", help="CSV or JSON lines; - for stdin.")
    ],
    *,
    file_format: Annotated[
        FileFormat | None,
        typer.Option("--format", help="What FILE is, unless its name ends in .csv or .jsonl."),
    ] = None,
) -> None:
    """Add CVMs, and bring those up to date that are there. All lines of a file, or none.

    Fields: id (cvm_...), name, workspace, host, vm_uuid, status, gpu_rental_order. The first three
    are required. A CVM without host or vm_uuid cannot be stopped. Left out, status and
    gpu_rental_order stay as they are; an empty gpu_rental_order takes the order away.
    """
    from shared.services.cvm_import import import_cvms

    name = str(getattr(file, "name", ""))  # standard input need not have one
    wanted = file_format or SUFFIXES.get(PurePath(name).suffix.lower())
    if wanted is None:
        msg = "the name of FILE does not say what it is: give --format csv or --format jsonl"
        raise typer.BadParameter(msg)
    read = read_cvm_file(file, wanted)
    try:
        with edge.session() as session:
            counts = import_cvms(session, read)
    except ImportRefusedError as error:
        for problem in error.problems[:MOST_PROBLEMS]:
            typer.echo(problem, err=True)
        count = len(error.problems)
        more = f" (the first {MOST_PROBLEMS} are above)" if count > MOST_PROBLEMS else ""
        typer.echo(f"cvmstop: nothing was imported; problems: {count}{more}", err=True)
        raise typer.Exit(1) from None
    total = counts.added + counts.updated
    typer.echo(f"imported {total} ({counts.added} new, {counts.updated} updated)")


@app.command("list")
def list_(
    *,
    as_json: AsJson = False,
    wide: AsWide = False,
    workspace: Annotated[str | None, typer.Option(metavar="NAME", help="Only its CVMs.")] = None,
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help="Only those with that status.")
    ] = None,
    host: Annotated[str | None, typer.Option(metavar="NAME", help="Only those on it.")] = None,
    drifted: Annotated[
        bool, typer.Option("--drifted", help="Only those that run though their stop has succeeded.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="At most so many. [default: all]")
    ] = None,
) -> None:
    """List CVMs by id."""
    from shared.services.cvms import list_cvms

    with edge.session() as session:
        rows = list_cvms(
            session, workspace=workspace, status=status, host=host, drifted=drifted, limit=limit
        )
    show_rows(
        rows,
        ALL_COLUMNS if wide else COLUMNS,
        as_json=as_json,
        nothing="there are no such CVMs",
        if_any=() if wide else ("drift_noticed_at",),
    )


@app.command()
def unassigned(
    *,
    as_json: AsJson = False,
    host: Annotated[str | None, typer.Option(metavar="NAME", help="Only those on it.")] = None,
) -> None:
    """List VMs that hosts list and that are no CVM.

    Import them, or let `cvmstop hosts adopt` put all of a host's into a workspace.
    """
    from shared.services.cvms import list_unassigned

    with edge.session() as session:
        rows = list_unassigned(session, host)
    columns = ["host", "vm_uuid", "name", "power_state", "first_seen_at", "seen_at"]
    show_rows(rows, columns, as_json=as_json, nothing="no host lists a VM that is not a CVM")


@app.command()
def remove(
    cvm_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Public ids, cvm_...")],
) -> None:
    """Remove CVMs that were never stopped from here. All of them, or none.

    Stops stay on record, and with them their CVM: import it without host and vm_uuid instead, and
    it cannot be stopped any more.
    """
    from shared.services.removal import remove_cvms

    with edge.session() as session:
        count = remove_cvms(session, cvm_ids)
    typer.echo(f"removed {count}")
