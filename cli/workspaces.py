"""`cvmstop workspaces`."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import edge
from cli.output import AsJson, show_rows


app = typer.Typer(
    help="Workspaces: create, list, revoke their keys.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The workspace's name.")]


@app.command()
def create(name: Name) -> None:
    """Create a workspace."""
    from shared.services.access import create_workspace

    with edge.session() as session:
        create_workspace(session, name)
    typer.echo(f"created workspace {name}")


@app.command("list")
def list_(*, as_json: AsJson = False) -> None:
    """List workspaces."""
    from shared.storage.access import list_workspaces

    with edge.session() as session:
        rows = list_workspaces(session)
    columns = ["name", "members", "cvms", "valid_keys", "created_at"]
    show_rows(rows, columns, as_json=as_json, nothing="there are no workspaces")


@app.command()
def revoke(name: Name) -> None:
    """Revoke every API key that is scoped to a workspace. The workspace itself stays."""
    from shared.services.access import revoke_keys_of_workspace

    with edge.session() as session:
        count = revoke_keys_of_workspace(session, name)
    typer.echo(f"revoked the API keys of workspace {name}: {count}")
