"""`cvmstop watch`: follow a batch live."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import time_text


if TYPE_CHECKING:
    from cli.api_client import ApiClient


def watch(
    batch_id: Annotated[
        str | None, typer.Argument(metavar="[BATCH]", help="The newest one when not given.")
    ] = None,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line for each event, as it comes.")
    ] = False,
) -> None:
    """Follow a batch until each stop has ended. Needs CVMSTOP_API_URL and CVMSTOP_API_KEY.

    Shows a bar on a terminal, else a line for each change of a stop. Ctrl-C ends the watching, not
    the stops.

    Exit status 0: all are down. 1: some failed or were canceled, or they were not waited for.
    """
    from cli.api_client import ApiClient

    with ApiClient.from_environment() as client:
        found = batch_id or _newest(client)
        try:
            is_good = _follow(client, found, as_json=as_json)
        except KeyboardInterrupt:
            typer.echo(
                f"cvmstop: not watching any longer; the stops go on: cvmstop watch {found}",
                err=True,
            )
            raise typer.Exit(1) from None
    if not is_good:
        raise typer.Exit(1)


def _newest(client: ApiClient) -> str:
    for batch in client.batches(1):
        return str(batch["id"])
    typer.echo("cvmstop: there are no batches for this key", err=True)
    raise typer.Exit(1)


def _follow(client: ApiClient, batch_id: str, *, as_json: bool) -> bool:
    from cli.event_stream import follow
    from cli.outcomes import all_succeeded, outcome_of, show_outcome
    from cli.waiting import PATIENCE, BatchBars

    batch = client.batch(batch_id)
    client.patience = PATIENCE  # something is under way: it is worth waiting
    if not as_json:
        typer.echo(f"batch {batch['id']}: {batch['stopped']} stops", err=True)
    with BatchBars() as bars:
        shows_bars = bars.are_drawn and not as_json
        states: dict[str, str] = {}
        for event in follow(client, batch["id"]):
            if as_json:
                typer.echo(json.dumps({"event": event.name, **event.data}, ensure_ascii=False))
            elif event.name == "stop" and not shows_bars:
                typer.echo(_line(event.data))
            if event.name == "stop":
                states[event.data["stop_task_id"]] = event.data["state"]
            if shows_bars and len(states) == batch["stopped"]:
                bars.update([_progress(states)])
    outcome = outcome_of([client.batch(batch["id"])])
    if not as_json:
        show_outcome(outcome)
    return all_succeeded(outcome)


def _progress(states: dict[str, str]) -> dict[str, Any]:
    from shared.models.states import OPEN_STATES

    counts = Counter(states.values())
    return {"counts": counts, "open": sum(counts[state] for state in OPEN_STATES)}


def _line(change: dict[str, Any]) -> str:
    at = time_text(datetime.fromisoformat(change["at"]))
    parts = [at, change["cvm_id"], change["host"], change["state"], change["error_code"] or ""]
    return "  ".join(parts).rstrip()
