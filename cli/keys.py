"""`cvmstop keys`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from cli import edge
from cli.durations import duration
from cli.output import AsJson, as_json_text, show_rows, time_text


app = typer.Typer(
    help="API keys: create, list, revoke; keys that seal.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

DEFAULT_LIFETIME = "90d"
"""A key that nobody thought about should not work for ever."""


@app.command()
def create(
    *,
    user: Annotated[str, typer.Option(metavar="NAME", help="Whose key it is.")],
    workspace: Annotated[str, typer.Option(metavar="NAME", help="The workspace it is for.")],
    name: Annotated[str, typer.Option(metavar="TEXT", help="What it is for.")] = "",
    expires_in: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help=f"Such as 30d or 12h. [default: {DEFAULT_LIFETIME}]"),
    ] = None,
    never_expires: Annotated[
        bool, typer.Option("--never-expires", help="Valid until it is revoked.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON object instead of the key alone.")
    ] = False,
) -> None:
    """Create an API key and print it, once: only its digest is kept.

    Standard output gets the key and nothing else: KEY=$(cvmstop keys create ...).
    """
    from shared.services.access import create_key

    if never_expires and expires_in is not None:
        msg = "give --expires-in or --never-expires, not both"
        raise typer.BadParameter(msg)
    valid_for = (
        None
        if never_expires
        else duration(
            DEFAULT_LIFETIME if expires_in is None else expires_in,
            for_ever="--never-expires for a key without an end",
        )
    )
    with edge.session() as session:
        key = create_key(session, user=user, workspace=workspace, name=name, valid_for=valid_for)
    until = "it is revoked" if key.expires_at is None else time_text(key.expires_at)
    typer.echo(f"key {key.id} of {user} for workspace {workspace}, valid until {until}:", err=True)
    if as_json:
        shown = asdict(key)
        typer.echo(as_json_text({"key": shown.pop("plain"), **shown}))
    else:
        typer.echo(key.plain)


@app.command("list")
def list_(*, as_json: AsJson = False) -> None:
    """List API keys, the newest first: what is known of them, never the keys."""
    from shared.storage.access import list_keys

    with edge.session() as session:
        rows = list_keys(session)
    columns = ["id", "hint", "user", "workspace", "name", "state", "created_at", "expires_at"]
    show_rows(rows, columns, as_json=as_json, nothing="there are no API keys")


@app.command()
def revoke(
    key: Annotated[
        str, typer.Argument(metavar="ID|HINT", help="The key's id or hint, as `keys list` has it.")
    ],
) -> None:
    """Revoke an API key: it stops working at once, for good."""
    from shared.services.access import revoke_key

    with edge.session() as session:
        key_id = revoke_key(session, key)
    typer.echo(f"revoked API key {key_id}")


@app.command("sealing-key")
def sealing_key() -> None:
    """Print a new key for CVMSTOP_SEALING_KEYS, which seals host credentials."""
    from shared.sealing import new_sealing_key

    typer.echo(new_sealing_key())
