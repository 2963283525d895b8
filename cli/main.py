"""The `cvmstop` command: a table of its commands, each loaded only when it is called.

`cvmstop --help` must answer at once, so that nothing heavy is imported here or at the top of a
command's module.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from cli import completion
from cli.edge import failures_told
from shared import __version__


if TYPE_CHECKING:
    from collections.abc import Callable


class Place(NamedTuple):
    """Where a command is."""

    module: str
    attribute: str
    """A `typer.Typer` of several commands, or the function of one."""
    summary: str


COMMANDS = {
    "demo": Place("cli.demo", "demo", "Start a stack, stop 150 CVMs, show what failed and why."),
    "up": Place("cli.up", "up", "Start the whole stack on this machine and keep it up."),
    "migrate": Place("cli.migrate", "migrate", "Bring the database's schema to this version."),
    "hosts": Place("cli.hosts", "app", "VM hosts: add, list, check, sync, adopt, disable, remove."),
    "workspaces": Place("cli.workspaces", "app", "Workspaces: create, list, revoke their keys."),
    "users": Place("cli.users", "app", "Users: create, list, revoke, put into workspaces."),
    "keys": Place("cli.keys", "app", "API keys: create, list, revoke; keys that seal."),
    "cvms": Place("cli.cvms", "app", "CVMs: import, list, unassigned, remove."),
    "stop": Place("cli.stop", "stop", "Force-stop CVMs, and wait until they are down."),
    "batches": Place("cli.batches", "app", "Batches: list, show, retry, cancel."),
    "watch": Place("cli.watch", "watch", "Follow a batch live, until each stop has ended."),
    "failures": Place("cli.failures", "app", "Stops that failed, and why; try them again."),
    "webhooks": Place(
        "cli.webhooks", "app", "Endpoints that are told of stops: add, list, remove, deliveries."
    ),
    "purge": Place("cli.purge", "purge", "Delete finished batches that are old enough."),
    "settings": Place("cli.settings", "settings", "Every setting and what it means."),
    "completion": Place("cli.completion", "completion", "What makes bash, zsh or fish complete."),
    "api": Place("cli.api", "api", "Run the API."),
    "simulate-host": Place("cli.simulate_host", "simulate_host", "Run a simulated VM host."),
}
"""Every command, in the order of `cvmstop --help`."""


class LazyCommands(TyperGroup):
    """Knows its commands by name and summary; loads the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, place in COMMANDS.items():
            self.add_command(TyperCommand(name, help=place.summary))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that is called, and load it."""
        name, placeholder, rest = super().resolve_command(ctx, args)
        return name, placeholder and load_command(str(placeholder.name)), rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command that is called; tell its failure in a line."""
        with failures_told():
            return super().invoke(ctx)


def load_command(name: str) -> Any:
    """Load a command of the table."""
    place = COMMANDS[name]
    found: typer.Typer | Callable[..., Any] = getattr(import_module(place.module), place.attribute)
    if isinstance(found, typer.Typer):
        return get_group(found)
    alone = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    alone.command(name)(found)
    return get_command(alone)


app = typer.Typer(
    cls=LazyCommands,
    add_completion=False,  # a command of its own: Typer's option edits the shell's files
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _show_version(value: bool) -> None:  # noqa: FBT001 - Typer calls it with the option's value
    if value:
        typer.echo(f"cvmstop {__version__}")
        raise typer.Exit


@app.callback()
def cvmstop(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Force-stop confidential VMs in batches, and lose none.

    Settings are environment variables named CVMSTOP_…: see `cvmstop settings`.
    """


def main() -> None:
    """Run the command line."""
    if completion.VARIABLE in os.environ:
        completion.prepare()
    app(prog_name="cvmstop")
