"""`cvmstop failures retry`: failed stops by their ids, or all that some filters find."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import failure_filters as by
from cli.output import as_json_text
from cli.stop_details import group_in_words


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cli.api_client import ApiClient

NOT_RETRIED = frozenset({403, 404, 422})
"""Answers of the API that are about one stop, and say nothing of the others."""


def retry(  # noqa: PLR0913 - Typer takes each option as an argument
    stop_task_ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID...]", help="Of stops that failed or were canceled."),
    ] = None,
    *,
    host: by.Host = None,
    workspace: by.Workspace = None,
    error_code: by.Code = None,
    cvm: by.CvmId = None,
    batch: by.BatchId = None,
    request_id: by.RequestId = None,
    since: by.Since = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until each new stop has ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Try stops again: each a new stop, in a new batch. What failed stays on record.

    Give ids, or any of the filters, which all must apply: then all that failed and were not tried
    again yet are taken, after asking.

    `cvmstop batches retry` takes all that failed of a batch. Exit status 0: all were accepted, and
    with --wait all are down.
    """
    from cli.api_client import ApiClient
    from cli.outcomes import all_succeeded, show_not_done, show_outcome, wait_for_outcome

    wanted = by.as_query(
        host=host,
        workspace=workspace,
        error_code=error_code,
        cvm=cvm,
        batch=batch,
        request_id=request_id,
        since=since,
    )
    if bool(wanted) == bool(stop_task_ids):
        msg = "which ones? Give ids, or any of the filters, such as --host, and not both"
        raise typer.BadParameter(msg)
    with ApiClient.from_environment() as client:
        ids = stop_task_ids or _found(client, wanted, yes=yes)
        report = _retry_each(client, dict.fromkeys(ids))
        is_good = not report["problems"] and not report["not_retried"]
        if not as_json:
            typer.echo(f"retried {report['retried']} of {len(set(ids))}")
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


def _found(client: ApiClient, wanted: Mapping[str, str], *, yes: bool) -> list[str]:
    """Find what failed and nobody has tried again, and ask about it."""
    found = list(client.stop_tasks({**by.only_failed(wanted), "retried": "false"}, None))
    if not found:
        none = f"nothing failed that was not tried again{by.in_words(wanted)}: nothing to retry"
        typer.echo(f"cvmstop: {none}", err=True)
        raise typer.Exit(1)
    if not yes:
        groups = Counter((task["error_code"], task["host"]) for task in found)
        for (code, host), count in groups.most_common():
            typer.echo(group_in_words(count, code, host), err=True)
        stops = "1 failed stop" if len(found) == 1 else f"{len(found)} failed stops"
        typer.confirm(f"Try {stops} again?", abort=True, err=True)
    return [task["id"] for task in found]


def _retry_each(client: ApiClient, stop_task_ids: Iterable[str]) -> dict[str, Any]:
    """Ask for each; gives what `--json` shows. One that is refused is told, and ends nothing."""
    from cli.api_client import ApiRequestError
    from cli.waiting import PATIENCE

    report: dict[str, Any] = {
        "total": 0,
        "retried": 0,
        "not_retried": [],
        "batches": [],
        "problems": [],
    }
    for stop_task_id in stop_task_ids:
        try:
            answer = client.act("stop-tasks", stop_task_id, "retry")
        except ApiRequestError as error:
            if error.status not in NOT_RETRIED and not report["total"]:
                raise
            report["problems"].append({"stop_task_id": stop_task_id, "problem": str(error)})
            typer.echo(f"cvmstop: not retried: {stop_task_id}: {error}", err=True)
            continue
        client.patience = PATIENCE  # something is under way: it is worth waiting
        for name in ("total", "retried", "not_retried"):
            report[name] += answer[name]
        report["batches"] += [answer["batch_id"]] if answer["batch_id"] else []
    return report
