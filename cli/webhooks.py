"""`cvmstop webhooks`: who is told of stops that end. It asks the API."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.output import AsJson, as_json_text, show_rows, with_times
from shared.models.webhooks import EVENTS, DeliveryState


app = typer.Typer(
    help="Endpoints that are told of stops. Needs CVMSTOP_API_URL and CVMSTOP_API_KEY.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

COLUMNS = ["id", "workspace", "url", "events", "enabled", "failing_since"]
DELIVERY_COLUMNS = ["id", "event", "created_at", "state", "attempts", "next_at", "last_error"]
TIMES = ("failing_since", "created_at", "next_at")

WebhookId = Annotated[str, typer.Argument(metavar="ID", help="As `webhooks list` has it.")]
AsObject = Annotated[bool, typer.Option("--json", help="Everything, as one object.")]


@app.command()
def add(
    url: Annotated[str, typer.Argument(metavar="URL", help="https://…, a public address.")],
    *,
    events: Annotated[
        list[str] | None,
        typer.Option(
            "--event", metavar="EVENT", help=f"Of {', '.join(EVENTS)}; may be repeated. [all]"
        ),
    ] = None,
    workspace: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose events; the key's own otherwise.")
    ] = None,
    as_json: AsObject = False,
) -> None:
    """Add a webhook. Its secret is shown this once: deliveries are signed with it."""
    from cli.api_client import ApiClient

    wanted: dict[str, Any] = {"url": url}
    wanted |= {"events": events} if events else {}
    wanted |= {"workspace": workspace} if workspace else {}
    with ApiClient.from_environment() as client:
        made = client.add_webhook(wanted)
    if as_json:
        typer.echo(as_json_text(made))
        return
    typer.echo(f"webhook {made['id']} of workspace {made['workspace']} is added", err=True)
    typer.echo("its secret, shown this once:", err=True)
    typer.echo(made["secret"])


@app.command("list")
def list_(
    *,
    workspace: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only of this workspace.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List webhooks, the newest first."""
    from cli.api_client import ApiClient

    with ApiClient.from_environment() as client:
        found = list(client.webhooks({"workspace": workspace}))
    show_rows(
        found if as_json else [with_times(row, *TIMES) for row in found],
        COLUMNS,
        as_json=as_json,
        nothing="there are no webhooks for this key",
    )


@app.command()
def enable(webhook_id: WebhookId) -> None:
    """Have a webhook told again, from now on."""
    _set_enabled(webhook_id, enabled=True)


@app.command()
def disable(webhook_id: WebhookId) -> None:
    """Have a webhook told of nothing; what happens meanwhile it never is."""
    _set_enabled(webhook_id, enabled=False)


@app.command()
def remove(webhook_id: WebhookId) -> None:
    """Remove a webhook: nothing is sent any more, not even what is pending."""
    from cli.api_client import ApiClient

    with ApiClient.from_environment() as client:
        client.remove_webhook(webhook_id)
    typer.echo(f"removed webhook {webhook_id}")


@app.command()
def deliveries(
    webhook_id: WebhookId,
    *,
    state: Annotated[
        DeliveryState | None, typer.Option(metavar="STATE", help="pending, delivered or failed.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Newest N at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List what was sent to a webhook, is to be, or was given up, the newest first."""
    from cli.api_client import ApiClient

    wanted = {"state": str(state) if state else None}
    with ApiClient.from_environment() as client:
        found = list(client.deliveries(webhook_id, wanted, limit))
    show_rows(
        found if as_json else [with_times(row, *TIMES) for row in found],
        DELIVERY_COLUMNS,
        as_json=as_json,
        nothing="nothing was to be sent to it",
    )


@app.command()
def redeliver(
    webhook_id: WebhookId,
    delivery_ids: Annotated[
        list[str], typer.Argument(metavar="DELIVERY...", help="As `webhooks deliveries` has them.")
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Send deliveries once more, as they were: the same event ids and bodies."""
    from cli.api_client import ApiClient

    with ApiClient.from_environment() as client:
        done = [client.redeliver(webhook_id, each) for each in dict.fromkeys(delivery_ids)]
    if as_json:
        typer.echo(as_json_text(done))
    else:
        typer.echo(f"to be sent again: {len(done)}")


@app.command("test")
def send_test(webhook_id: WebhookId, *, as_json: AsObject = False) -> None:
    """Send a webhook an event that means nothing; `webhooks deliveries` says how it went."""
    from cli.api_client import ApiClient

    with ApiClient.from_environment() as client:
        sent = client.act("webhooks", webhook_id, "test")
    typer.echo(as_json_text(sent) if as_json else f"delivery {sent['id']} is to be sent")


def _set_enabled(webhook_id: str, *, enabled: bool) -> None:
    from cli.api_client import ApiClient

    with ApiClient.from_environment() as client:
        client.change_webhook(webhook_id, {"enabled": enabled})
    typer.echo(f"webhook {webhook_id} is {'enabled' if enabled else 'disabled'}")
