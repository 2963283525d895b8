"""What became of stops that were asked for: for people, for programs, and as exit status."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import typer

from cli.output import show_rows
from shared.models.states import StopState


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cli.api_client import ApiClient

MOST_IDS = 5
"""Ids that a line names: whoever needs all of them takes --json."""

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
    for line in by_reason((each["cvm_id"], each["detail"]) for each in not_done):
        typer.echo(f"not {action}: {line}", err=True)


def by_reason(cvms: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Say in a line for each reason how many CVMs it is about, and which.

    Parameters
    ----------
    cvms
        Id and reason of each; ids may be any text, as the API gives back what it was given.
    """
    reasons: dict[str, list[str]] = {}
    for cvm_id, reason in cvms:
        reasons.setdefault(reason, []).append(cvm_id if is_plain(cvm_id) else repr(cvm_id))
    for reason, ids in reasons.items():
        if len(ids) == 1:
            yield f"{ids[0]}: {reason}"
            continue
        more = f" and {len(ids) - MOST_IDS} more" if len(ids) > MOST_IDS else ""
        yield f"{len(ids)} CVMs: {reason}: {', '.join(ids[:MOST_IDS])}{more}"


def is_plain(cvm_id: str) -> bool:
    """Say whether a text can be shown as it is."""
    return cvm_id.isascii() and cvm_id.replace("_", "").replace("-", "").isalnum()
