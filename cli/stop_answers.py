"""What `cvmstop stop` says of CVMs that are not stopped, and how to go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from cli.program import program


if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cli.api_client import ApiClient

NOT_BUSY = "it has no VM, a GPU rental manages it, or what was in progress has just ended"
"""Why a CVM was skipped on which no operation is in progress now: the API does not say which."""


def why_none(client: ApiClient, filters: Mapping[str, str | None]) -> str:
    """Say why filters find no CVM: a name that nothing is known of, or all of them together."""
    given = {name: value for name, value in filters.items() if value is not None}
    for name, value in given.items():
        if name != "status" and not any(client.cvms({name: value}, limit=1)):
            # Whether there is such a host, or a foreign workspace, is not the caller's to know.
            return f"this key sees no CVM with {name} {value!r}: is the name right?"
    words = " and ".join(f"{name} {value!r}" for name, value in given.items())
    return f"this key sees no CVM with {words}"


def show_refused(report: Mapping[str, Any]) -> None:
    """Show on standard error what was refused, by reason."""
    from cli.outcomes import by_reason

    for line in by_reason((each["cvm_id"], each["error"]) for each in report["errors"]):
        typer.echo(f"refused: {line}", err=True)


def show_skipped(client: ApiClient, report: Mapping[str, Any], wanted: Sequence[str]) -> None:
    """Show on standard error what was skipped: neither accepted nor refused."""
    from cli.api_client import ApiRequestError
    from cli.outcomes import by_reason

    if not report["skipped"] or report["dry_run"]:
        return
    not_skipped = {each["cvm_id"] for each in report["errors"]} | {*report["not_asked_for"]}
    try:
        for batch in report["batches"]:
            not_skipped |= {task["cvm_id"] for task in client.batch(batch["id"])["tasks"]}
        skipped = [cvm_id for cvm_id in wanted if cvm_id not in not_skipped]
        for line in by_reason(_with_reasons(client, skipped)):
            typer.echo(f"skipped: {line}", err=True)
    except ApiRequestError as error:  # the stops are accepted all the same
        typer.echo(f"cvmstop: which ones were skipped is not known: {error}", err=True)


def _with_reasons(client: ApiClient, skipped: Sequence[str]) -> Iterator[tuple[str, str]]:
    from shared.models.actions import Obstacle

    busy = {row["id"] for row in client.cvms({"in_progress": "true"})} if skipped else set()
    for cvm_id in skipped:
        yield cvm_id, Obstacle.IN_PROGRESS.message if cvm_id in busy else NOT_BUSY


def tell_how_to_watch(report: Mapping[str, Any]) -> None:
    """Say how what was accepted is followed; `cvmstop watch` alone takes the newest batch only."""
    accepted = [batch["id"] for batch in report["batches"] if batch["stopped"]]
    if accepted:
        which = "it" if len(accepted) == 1 else f"them, each of {len(accepted)} batches by itself"
        typer.echo(f"to follow {which}:", err=True)
    for batch_id in accepted:
        typer.echo(f"  {program()} watch {batch_id}", err=True)
