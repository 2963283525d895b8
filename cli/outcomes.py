"""What became of stops that were asked for: for people, for programs, and as exit status."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import typer

from cli.output import show_rows
from shared.models.states import StopState


if TYPE_CHECKING:
    from collections.abc import Sequence

    from cli.api_client import ApiClient

TASK_FIELDS = (
    "id",
    "batch_id",
    "cvm_id",
    "host",
    "workspace",
    "state",
    "attempts",
    "accepted_at",
    "finished_at",
    "error_code",
    "error_message",
)
"""What `--json` has of each stop that was waited for. These names stay."""


def wait_for_outcome(client: ApiClient, batch_ids: Sequence[str]) -> dict[str, Any]:
    """Wait for batches; gives how many stops ended how, and each of them."""
    from cli.waiting import wait_for_batches

    try:
        batches = wait_for_batches(client, batch_ids) if batch_ids else []
    except KeyboardInterrupt:
        typer.echo(
            f"cvmstop: not waiting any longer; the stops go on: cvmstop batches show"
            f" {batch_ids[0]}{' …' if len(batch_ids) > 1 else ''}",
            err=True,
        )
        raise typer.Exit(1) from None
    return outcome_of(batches)


def outcome_of(batches: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Give how many stops of some batches ended how, and each of them."""
    tasks = [
        {name: task[name] for name in TASK_FIELDS} for each in batches for task in each["tasks"]
    ]
    counts = Counter(task["state"] for task in tasks)
    return {
        **{str(state): counts[state] for state in ENDS},
        "tasks": tasks,
    }


ENDS = (StopState.SUCCEEDED, StopState.FAILED, StopState.CANCELED)


def all_succeeded(outcome: dict[str, Any]) -> bool:
    """Say whether every stop that was waited for has succeeded."""
    return all(task["state"] == StopState.SUCCEEDED for task in outcome["tasks"])


def show_outcome(outcome: dict[str, Any]) -> None:
    """Show counts by host, and each stop that did not succeed."""
    tasks = outcome["tasks"]
    rows = []
    for host in sorted({task["host"] for task in tasks}):
        counts = Counter(task["state"] for task in tasks if task["host"] == host)
        rows.append({"host": host, **{str(state): counts[state] for state in ENDS}})
    if rows:
        show_rows(rows, ["host", *map(str, ENDS)], as_json=False, nothing="")
    rest = [task for task in tasks if task["state"] != StopState.SUCCEEDED]
    if rest:
        typer.echo("")
        columns = ["id", "cvm_id", "host", "state", "error_code", "error_message"]
        show_rows(rest, columns, as_json=False, nothing="")


def show_not_done(not_done: Sequence[dict[str, Any]], action: str) -> None:
    """Show on standard error what was not retried or not canceled, and why."""
    for each in not_done:
        typer.echo(f"not {action}: {each['cvm_id']}: {each['detail']}", err=True)
