"""`cvmstop failures`: which stops failed, and why. It asks the API, so a key shows its own part."""

from __future__ import annotations

import shutil
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from cli.output import AsJson, as_json_text, show_rows, time_text
from shared.models.errors import ErrorCode
from shared.models.states import StopState


if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

app = typer.Typer(
    help="Stops that failed, and why. Needs CVMSTOP_API_URL and CVMSTOP_API_KEY.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

COLUMNS = ["id", "cvm_id", "host", "workspace", "attempts", "finished_at", "error_code"]
"""What a table shows of a failure, before its message."""

PIPED_WIDTH = 160
"""Longest line where there is no terminal whose width could be asked."""


@app.command("list")
def list_(
    *,
    host: Annotated[str | None, typer.Option(metavar="NAME", help="Only on this host.")] = None,
    workspace: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only of this workspace.")
    ] = None,
    error_code: Annotated[
        ErrorCode | None, typer.Option(metavar="CODE", help="Only for this reason.")
    ] = None,
    cvm: Annotated[str | None, typer.Option(metavar="ID", help="Only of this CVM.")] = None,
    batch: Annotated[UUID | None, typer.Option(metavar="ID", help="Only of this batch.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"],
            metavar="TIME",
            help="Only accepted since, such as 2026-01-31 or 2026-01-31T14:00:00, local time.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Newest N at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List stops that failed, the newest first."""
    from cli.api_client import ApiClient

    wanted = {
        "state": str(StopState.FAILED),
        "host": host,
        "workspace": workspace,
        "error_code": error_code,
        "cvm_id": cvm,
        "batch_id": str(batch) if batch else None,
        # A time without a zone is the caller's own.
        "accepted_from": since.astimezone().isoformat() if since else None,
    }
    with ApiClient.from_environment() as client:
        found = list(client.stop_tasks(wanted, limit))
    show_rows(
        found if as_json else map(_with_times, found),
        [*COLUMNS, "error_message"],
        as_json=as_json,
        nothing=_nothing(wanted),
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
    for line in _describe(found, shutil.get_terminal_size(fallback=(PIPED_WIDTH, 0)).columns):
        typer.echo(line)


@app.command()
def retry(
    stop_task_ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Of stops that failed or were canceled.")
    ],
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Until each new stop has ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Try stops again: each a new stop, in a new batch. What failed stays on record.

    `cvmstop batches retry` takes all that failed of a batch. Exit status 0: all were accepted, and
    with --wait all are down.
    """
    from cli.api_client import ApiClient, ApiRequestError
    from cli.outcomes import all_succeeded, show_not_done, show_outcome, wait_for_outcome

    report: dict[str, Any] = {"total": 0, "retried": 0, "not_retried": [], "batches": []}
    problems = []
    with ApiClient.from_environment() as client:
        for stop_task_id in dict.fromkeys(stop_task_ids):
            try:
                answer = client.act("stop-tasks", stop_task_id, "retry")
            except ApiRequestError as error:
                if error.status not in {403, 404, 422}:
                    raise
                problems.append({"stop_task_id": stop_task_id, "problem": str(error)})
                typer.echo(f"cvmstop: not retried: {stop_task_id}: {error}", err=True)
                continue
            for name in ("total", "retried", "not_retried"):
                report[name] += answer[name]
            report["batches"] += [answer["batch_id"]] if answer["batch_id"] else []
        report["problems"] = problems
        is_good = not problems and not report["not_retried"]
        if not as_json:
            typer.echo(f"retried {report['retried']} of {len(set(stop_task_ids))}")
            show_not_done(report["not_retried"], "retried")
        if wait:
            outcome = report["outcome"] = wait_for_outcome(client, report["batches"])
            is_good &= all_succeeded(outcome)
            if not as_json:
                show_outcome(outcome)
    if as_json:
        typer.echo(as_json_text(report))
    if not is_good:
        raise typer.Exit(1)


def _with_times(row: dict[str, Any]) -> dict[str, Any]:
    """Give a row for a table: times to the second."""
    finished = row["finished_at"]
    return {**row, "finished_at": finished and time_text(datetime.fromisoformat(finished))}


def _nothing(wanted: Mapping[str, str | None]) -> str:
    """Say that there is no failure, and of which it was asked."""
    filters = [
        f"{name} {value}" for name, value in wanted.items() if value is not None and name != "state"
    ]
    among = f", with these filters: {', '.join(filters)}" if filters else ""
    return f"no stop has failed, as far as this key may see{among}"


def _describe(found: dict[str, Any], width: int) -> Iterator[str]:
    """Describe a stop task for a person, exchanges with its host in lines of that width."""
    yield f"stop task  {found['id']}"
    yield f"batch      {found['batch_id']}"
    yield f"CVM        {found['cvm_id']} of {found['workspace']}"
    yield f"VM         {found['vm_uuid']} on {found['host']}"
    yield f"accepted   {_time(found['accepted_at'])}"
    if found["retry_of"]:
        yield f"retry of   {found['retry_of']}"
    if found["retried_by"]:
        yield f"retried by {found['retried_by']}"
    ended = f", {_time(found['finished_at'])}" if found["finished_at"] else ""
    yield f"state      {found['state']}{ended}"
    if found["error_code"]:
        yield f"error      {found['error_code']}: {_shown(found['error_message'])}"
    for attempt in found["attempt_log"]:
        yield ""
        yield f"try {attempt['number']}, {_time(attempt['started_at'])}, {attempt['worker']}"
        yield f"  outcome  {attempt['outcome']}, the VM {attempt['power_state'] or 'not seen'}"
        if attempt["error_code"]:
            yield f"  error    {attempt['error_code']}: {_shown(attempt['error_message'])}"
        same = groupby(attempt["exchanges"], key=itemgetter("request", "answer"))
        for (request, answer), exchanges in same:
            seconds = [exchange["seconds"] for exchange in exchanges]
            times = f"{len(seconds)} times, at most " if len(seconds) > 1 else ""
            end = f"  ({times}{max(seconds):.3f} s)"
            yield f"  sent     {_shown(request)}"
            yield _cut(f"  got      {_shown(answer)}", width - len(end)) + end


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(width - 1, 0)]}…"


def _time(text: str) -> str:
    return time_text(datetime.fromisoformat(text))


def _shown(text: str | None) -> str:
    """Show what came from a host, without letting it steer the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text or "-")
