"""`cvmstop stop`: stop CVMs by their ids, or all of a workspace, a host or a status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import as_json_text
from shared.models.batches import MAX_BATCH


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cli.api_client import ApiClient

HANDFUL = 5
"""CVMs that are stopped without being asked about."""


def stop(  # noqa: PLR0913 - Typer takes each option as an argument
    cvm_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID...]", help="Public ids, cvm_...")
    ] = None,
    *,
    from_file: Annotated[
        typer.FileText | None,
        typer.Option(metavar="FILE", help="Ids, one a line; # begins a comment; - for stdin."),
    ] = None,
    workspace: Annotated[str | None, typer.Option(metavar="NAME", help="All of it.")] = None,
    host: Annotated[str | None, typer.Option(metavar="NAME", help="All on it.")] = None,
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help="All with it, such as running.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be stopped.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until each stop has ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Force-stop CVMs, 50 in a batch. Needs CVMSTOP_API_URL and CVMSTOP_API_KEY.

    Give ids, or any of --workspace, --host and --status, which all must apply. Asks before it stops
    more than 5.

    Exit status 0: all were accepted, and with --wait all are down. 1: some were skipped, refused,
    failed or canceled, or were not asked for. 2: wrong usage.
    """
    from cli.api_client import ApiClient
    from cli.stop_answers import show_refused, show_skipped, tell_how_to_watch, why_none

    filters = {"workspace": workspace, "host": host, "status": status}
    has_filters = any(value is not None for value in filters.values())
    given = [*(cvm_ids or []), *(_read_ids(from_file) if from_file else [])]
    if has_filters and given:
        msg = "give ids, or --workspace, --host and --status, not both"
        raise typer.BadParameter(msg)
    if not has_filters and not cvm_ids and from_file is None:
        msg = "which CVMs? Give ids, --from-file, --workspace, --host or --status"
        raise typer.BadParameter(msg)
    with ApiClient.from_environment() as client:
        wanted = [row["id"] for row in client.cvms(filters)] if has_filters else given
        wanted = list(dict.fromkeys(wanted))
        if not wanted:
            why = why_none(client, filters) if has_filters else "no ids were given"
            typer.echo(f"cvmstop: nothing was stopped: {why}", err=True)
            raise typer.Exit(1)
        if len(wanted) > HANDFUL and not (yes or dry_run):
            typer.confirm(f"Force-stop {len(wanted)} CVMs?", abort=True, err=True)
        report = _ask_for(client, wanted, dry_run=dry_run, quiet=as_json)
        if not as_json:
            show_refused(report)
            show_skipped(client, report, wanted)
            if not wait:
                tell_how_to_watch(report)
        is_good = report["stopped"] == len(wanted)
        if wait and not dry_run:
            is_good &= _wait(client, report, quiet=as_json)
    if as_json:
        typer.echo(as_json_text(report))
    if not is_good:
        raise typer.Exit(1)


def _read_ids(lines: Iterable[str]) -> Iterator[str]:
    try:
        for line in lines:
            if cvm_id := line.partition("#")[0].strip():
                yield cvm_id
    except UnicodeDecodeError:
        msg = "--from-file is no text"
        raise typer.BadParameter(msg) from None


def _ask_for(client: ApiClient, wanted: list[str], *, dry_run: bool, quiet: bool) -> dict[str, Any]:
    """Post batch after batch; gives what `--json` shows. What fails ends it, and is told."""
    from cli.api_client import ApiRequestError
    from cli.waiting import PATIENCE

    report: dict[str, Any] = {
        "dry_run": dry_run,
        "total": 0,
        "stopped": 0,
        "skipped": 0,
        "errors": [],
        "batches": [],
        "not_asked_for": [],
        "problem": None,
        "outcome": None,
    }
    for start in range(0, len(wanted), MAX_BATCH):
        part = wanted[start : start + MAX_BATCH]
        batch_id = None
        try:
            if dry_run:
                answer = client.preview(part)
            else:
                batch_id, answer = client.batch_stop(part)
        except ApiRequestError as error:
            if start == 0:
                raise
            report["not_asked_for"] = wanted[start:]
            report["problem"] = str(error)
            typer.echo(f"cvmstop: {len(wanted) - start} CVMs not asked for: {error}", err=True)
            break
        client.patience = PATIENCE  # something is under way: it is worth waiting
        for name in ("total", "stopped", "skipped"):
            report[name] += answer[name]
        report["errors"] += answer["errors"]
        if batch_id is not None:
            counts = {name: answer[name] for name in ("total", "stopped", "skipped")}
            report["batches"].append({"id": batch_id, **counts, "errors": len(answer["errors"])})
        if not quiet:
            _show_answer(batch_id, answer)
    return report


def _show_answer(batch_id: str | None, answer: dict[str, Any]) -> None:
    begin = "would be" if batch_id is None else f"batch {batch_id}:"
    typer.echo(
        f"{begin} {answer['stopped']} accepted, {answer['skipped']} skipped,"
        f" {len(answer['errors'])} refused"
    )


def _wait(client: ApiClient, report: dict[str, Any], *, quiet: bool) -> bool:
    from cli.outcomes import all_succeeded, show_outcome, wait_for_outcome

    batch_ids = [batch["id"] for batch in report["batches"] if batch["stopped"]]
    outcome = report["outcome"] = wait_for_outcome(client, batch_ids)
    if not quiet:
        show_outcome(outcome)
    return all_succeeded(outcome)
