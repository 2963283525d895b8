"""`cvmstop batches`: what was asked, how far it is, and what is done about it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.output import AsJson, AsWide, as_json_text, show_rows, with_times


app = typer.Typer(
    help="Batches: list, show, retry, cancel. Needs CVMSTOP_API_URL and CVMSTOP_API_KEY.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

COLUMNS = ["id", "accepted_at", "user", "total", "succeeded", "failed", "open"]
"""What a table shows of a batch."""

COUNTS = ["total", "stopped", "skipped", "refused", "succeeded", "failed", "canceled", "open"]
ALL_COLUMNS = ["id", "accepted_at", "user", "workspace", *COUNTS]

BatchId = Annotated[str, typer.Argument(metavar="ID", help="The batch's, as its answer has it.")]
AsObject = Annotated[bool, typer.Option("--json", help="Everything, as one object.")]


@app.command("list")
def list_(
    *,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Newest N at most.")] = 20,
    as_json: AsJson = False,
    wide: AsWide = False,
) -> None:
    """List batches, the newest first."""
    from cli.api_client import ApiClient

    with ApiClient.from_environment() as client:
        found = list(client.batches(limit))
    rows = found if as_json else [_for_table(batch) for batch in found]
    show_rows(
        rows,
        ALL_COLUMNS if wide else COLUMNS,
        as_json=as_json,
        nothing="there are no batches for this key",
    )


@app.command()
def show(batch_id: BatchId, *, as_json: AsObject = False) -> None:
    """Show a batch with its stops."""
    from cli.api_client import ApiClient
    from cli.outcomes import by_reason

    with ApiClient.from_environment() as client:
        batch = client.batch(batch_id)
    if as_json:
        typer.echo(as_json_text(batch))
        return
    row = _for_table(batch)
    show_rows([row], ALL_COLUMNS[:4], as_json=False, nothing="")
    typer.echo("")
    show_rows([row], COUNTS, as_json=False, nothing="")
    if batch["retry_of"]:
        typer.echo(f"retry of batch {batch['retry_of']}")
    for line in by_reason((each["cvm_id"], each["error"]) for each in batch["errors"]):
        typer.echo(f"refused: {line}")
    typer.echo("")
    columns = ["id", "cvm_id", "host", "state", "attempts", "error_code", "error_message"]
    show_rows(batch["tasks"], columns, as_json=False, nothing="it has no stops")


@app.command()
def retry(
    batch_id: BatchId,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Until each new stop has ended.")] = False,
    as_json: AsObject = False,
) -> None:
    """Try the failed stops of a batch again, in a new batch.

    Exit status 0: all of them were accepted, and with --wait all are down.
    """
    from cli.api_client import ApiClient
    from cli.outcomes import all_succeeded, show_not_done, show_outcome, wait_for_outcome

    with ApiClient.from_environment() as client:
        answer = client.act("batches", batch_id, "retry")
        is_good = not answer["not_retried"]
        if not as_json:
            new = f", in batch {answer['batch_id']}" if answer["batch_id"] else ""
            typer.echo(f"retried {answer['retried']} of {answer['total']}{new}")
            show_not_done(answer["not_retried"], "retried")
        if wait:
            outcome = wait_for_outcome(client, [answer["batch_id"]] if answer["batch_id"] else [])
            answer["outcome"] = outcome
            is_good &= all_succeeded(outcome)
            if not as_json:
                show_outcome(outcome)
    if as_json:
        typer.echo(as_json_text(answer))
    if not is_good:
        raise typer.Exit(1)


@app.command()
def cancel(batch_id: BatchId, *, as_json: AsObject = False) -> None:
    """Cancel the stops of a batch that no worker has and no host took.

    Exit status 0: nothing of it goes on.
    """
    from cli.api_client import ApiClient
    from cli.outcomes import show_not_done

    with ApiClient.from_environment() as client:
        answer = client.act("batches", batch_id, "cancel")
    if as_json:
        typer.echo(as_json_text(answer))
    else:
        typer.echo(f"canceled {answer['canceled']} of {answer['total']} that were open")
        show_not_done(answer["not_canceled"], "canceled")
    if answer["not_canceled"]:
        raise typer.Exit(1)


def _for_table(batch: dict[str, Any]) -> dict[str, Any]:
    """Give a row for a table: times as such, and counts beside each other."""
    counts = {**batch["counts"], "refused": len(batch["errors"])}
    return {**with_times(batch, "accepted_at"), **counts}
