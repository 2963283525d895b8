"""`cvmstop failures`: which stops failed, and why. It asks the API, so a key shows its own part."""

from __future__ import annotations

import shutil
from datetime import datetime
from typing import Annotated, Any

import typer

from cli import failure_filters as by
from cli.failure_retries import retry
from cli.output import AsJson, AsWide, as_json_text, show_rows, with_times
from cli.stop_details import describe, group_in_words


app = typer.Typer(
    help="Stops that failed, and why. Needs CVMSTOP_API_URL and CVMSTOP_API_KEY.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

COLUMNS = ["id", "cvm_id", "host", "error_code", "finished_at", "error_message"]
ALL_COLUMNS = [*COLUMNS[:3], "workspace", "attempts", "accepted_at", *COLUMNS[3:]]
"""What a table shows of a failure."""

LISTED = 50
"""Rows that a list has at most, unless more are asked for."""

PIPED_WIDTH = 160
"""Longest line where there is no terminal whose width could be asked."""


@app.command("list")
def list_(  # noqa: PLR0913 - Typer takes each option as an argument
    *,
    host: by.Host = None,
    workspace: by.Workspace = None,
    error_code: by.Code = None,
    cvm: by.CvmId = None,
    batch: by.BatchId = None,
    request_id: by.RequestId = None,
    since: by.Since = None,
    retried: Annotated[
        bool | None,
        typer.Option("--retried/--not-retried", help="Only if tried again, or only if not."),
    ] = None,
    group: Annotated[
        bool, typer.Option("--group", help="How many for which reason on which host; all of them.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Newest N at most (50).")
    ] = None,
    as_json: AsJson = False,
    wide: AsWide = False,
) -> None:
    """List stops that failed, the newest first; or how many for which reason, the most first.

    One that was tried again stays in the list, and so does its retry if that fails too:
    --not-retried leaves what is still to be dealt with. With --group, --json gives one object.
    """
    from cli.api_client import ApiClient

    wanted = by.as_query(
        host=host,
        workspace=workspace,
        error_code=error_code,
        cvm=cvm,
        batch=batch,
        request_id=request_id,
        since=since,
    )
    if retried is not None:
        wanted["retried"] = str(retried).lower()
    if group and limit is not None:
        msg = "--limit is not for --group, which counts all"
        raise typer.BadParameter(msg)
    nothing = f"no stop has failed, as far as this key may see{by.in_words(wanted)}"
    with ApiClient.from_environment() as client:
        if group:
            show_groups(client.failure_groups(wanted), as_json=as_json, nothing=nothing)
            return
        found = list(client.stop_tasks(by.only_failed(wanted), limit or LISTED))
    show_rows(
        found if as_json else [with_times(row, "accepted_at", "finished_at") for row in found],
        ALL_COLUMNS if wide else COLUMNS,
        as_json=as_json,
        nothing=nothing,
    )


@app.command()
def show(
    stop_task_id: Annotated[
        str, typer.Argument(metavar="ID", help="Of the stop task, which is its Celery task's too.")
    ],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as one object.")] = False,
) -> None:
    """Show a stop with every try: what was sent, and what the host answered.

    What was repeated is shown once, and long answers are cut to the line: --json has everything.
    """
    from cli.api_client import ApiClient

    with ApiClient.from_environment() as client:
        found = client.stop_task(stop_task_id)
    if as_json:
        typer.echo(as_json_text(found))
        return
    for line in describe(found, shutil.get_terminal_size(fallback=(PIPED_WIDTH, 0)).columns):
        typer.echo(line)


app.command()(retry)


def show_groups(found: dict[str, Any], *, as_json: bool, nothing: str) -> None:
    """Show failures by reason and host, and what of them is not shown."""
    if as_json:
        typer.echo(as_json_text(found))
        return
    rows = [
        {
            "failures": group_in_words(group["count"], group["error_code"], group["host"]),
            "newest": datetime.fromisoformat(group["newest_at"]),
            "oldest": datetime.fromisoformat(group["oldest_at"]),
            "such as": group["sample_id"],
            "message": group["sample_message"],
        }
        for group in found["groups"]
    ]
    columns = ["failures", "newest", "oldest", "such as", "message"]
    show_rows(rows, columns, as_json=False, nothing=nothing)
    if found["left_out"]:
        typer.echo(f"and {found['left_out']} smaller groups", err=True)
    if found["is_cut_off"]:
        typer.echo(f"only the newest {found['counted']} failures were counted", err=True)
