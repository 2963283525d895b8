"""`cvmstop up`: the whole stack on one machine."""

from __future__ import annotations

import shlex
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.program import program


if TYPE_CHECKING:
    from collections.abc import Iterator

    from cli.stack.data_dir import DataDir
    from cli.stack.stack import Stack


def up(
    *,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep data here, and start again with it: same keys, same ports if they are free."
            " Without it nothing is kept.",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, metavar="P", help="The API's port. [default: a free one]"),
    ] = None,
    simulate: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Add three simulated hosts, with so many CVMs on them."
            " [default: as DIR had them before; none in a new one]",
        ),
    ] = None,
) -> None:
    """Start the whole stack on this machine and keep it up: Ctrl-C ends it.

    PostgreSQL, Valkey, API, worker, dispatcher, beat and Flower; what dies is started again. Once
    all are ready, DIR/stack.json says how they are reached. Settings (CVMSTOP_…) reach all of them.
    """
    from cli.stack.simulation import EMPTY, simulated
    from cli.stack.stack import Stack
    from cli.stack.supervisor import ToldToStopError

    began = time.monotonic()
    with opened(data_dir) as directory:
        kept = directory.load_secrets()
        if simulate is not None:
            kept.simulated_cvms = simulate
            directory.save_secrets(kept)
        inventory = EMPTY if kept.simulated_cvms is None else simulated(kept.simulated_cvms)
        typer.echo(f"starting the stack in {directory.root}")
        if simulate is None and inventory.hosts:
            typer.echo(f"with simulated hosts and {inventory.cvms} CVMs on them, as before")
        stack = Stack(
            directory,
            inventory,
            api_port=port,
            report=typer.echo,
        )
        with suppress(ToldToStopError), stack.running():
            typer.echo(f"ready in {time.monotonic() - began:.1f} s")
            _say_how_to_go_on(stack)
            stack.supervisor.run()


@contextmanager
def opened(root: Path | None) -> Iterator[DataDir]:
    """Prepare and lock a data directory; without one, make one that goes with the block.

    Raises
    ------
    StackError
        It cannot be used, or another stack runs on it.
    """
    from cli.stack.data_dir import DataDir

    temporary = None if root else Path(tempfile.mkdtemp(prefix="cvmstop-"))
    directory = DataDir((root or temporary or Path()).resolve())
    try:
        directory.prepare()
        with directory.locked():
            yield directory
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def _say_how_to_go_on(stack: Stack) -> None:
    facts, directory = stack.facts, stack.data_dir
    example = next((record.hash_id for record in stack.inventory.records()), "cvm_...")
    typer.echo(f"""
page       {facts.api_url}/  (sign in with admin_key or user_key, in stack.json)
API        {facts.api_url}
Flower     {facts.flower_url}  (user {facts.flower_user}, password in stack.json)
how to     {directory.stack_file}
logs       {directory.logs}

Stop a CVM, and see what became of it:
  . {shlex.quote(str(directory.environment_file))}
  curl -H "X-API-Key: $CVMSTOP_API_KEY" -H 'Content-Type: application/json' \\
    -d '{{"cvm_ids": ["{example}"]}}' "$CVMSTOP_API_URL/api/v1/cvms/batch-stop"
  curl -H "X-API-Key: $CVMSTOP_API_KEY" "$CVMSTOP_API_URL/api/v1/stop-tasks?limit=5"
  {program()} failures list

Ctrl-C ends everything.""")
