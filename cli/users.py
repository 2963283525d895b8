"""`cvmstop users`."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import edge
from cli.output import AsJson, show_rows


app = typer.Typer(
    help="Users: create, list, revoke, put into workspaces.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")]
Workspace = Annotated[str, typer.Argument(metavar="WORKSPACE", help="The workspace's name.")]


@app.command()
def create(
    name: Name,
    *,
    admin: Annotated[
        bool, typer.Option("--admin", help="May stop any CVM, in every workspace.")
    ] = False,
    workspace: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Make the user a member of it. May be repeated."),
    ] = None,
) -> None:
    """Create a user."""
    from shared.models.states import UserRole
    from shared.services.access import create_user

    role = UserRole.ADMIN if admin else UserRole.USER
    with edge.session() as session:
        create_user(session, name, role=role, workspaces=workspace or [])
    typer.echo(f"created {'admin' if admin else 'user'} {name}")


@app.command("list")
def list_(*, as_json: AsJson = False) -> None:
    """List users."""
    from shared.storage.access import list_users

    with edge.session() as session:
        rows = list_users(session)
    columns = ["name", "role", "workspaces", "valid_keys", "created_at", "revoked_at"]
    show_rows(rows, columns, as_json=as_json, nothing="there are no users")


@app.command()
def revoke(name: Name) -> None:
    """Revoke a user, for good: all of the user's API keys stop working."""
    from shared.services.access import revoke_user

    with edge.session() as session:
        revoke_user(session, name)
    typer.echo(f"revoked user {name}")


@app.command("add-to")
def add_to(name: Name, workspace: Workspace) -> None:
    """Make a user a member of a workspace."""
    from shared.services.access import add_to_workspace

    with edge.session() as session:
        add_to_workspace(session, name, workspace)
    typer.echo(f"user {name} is a member of workspace {workspace}")


@app.command("remove-from")
def remove_from(name: Name, workspace: Workspace) -> None:
    """End a membership: the user's keys for that workspace stop working, unless an admin's."""
    from shared.services.access import remove_from_workspace

    with edge.session() as session:
        remove_from_workspace(session, name, workspace)
    typer.echo(f"user {name} is no member of workspace {workspace} any more")
