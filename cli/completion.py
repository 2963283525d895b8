"""`cvmstop completion`: what a shell reads to complete commands and options."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


VARIABLE = "_CVMSTOP_COMPLETE"
"""Environment variable by which the script asks for completions: Typer's name for it."""


class Shell(StrEnum):
    """Shells that Typer has a script for, and that people run cvmstop in."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="Which shell reads it.")]) -> None:
    """Write a script that makes a shell complete commands, options and choices.

    For this session, or in the shell's startup file:

    * bash, in `~/.bashrc`: `source <(cvmstop completion bash)`

    * zsh, in `~/.zshrc`, after `compinit`: `source <(cvmstop completion zsh)`

    * fish, in `~/.config/fish/config.fish`: `cvmstop completion fish | source`
    """
    from typer._completion_shared import get_completion_script

    script = get_completion_script(
        prog_name="cvmstop",
        complete_var=VARIABLE,
        # Which one the script is for: bandit thinks that something is run.
        shell=shell.value,  # nosec B604
    )
    typer.echo(script)


def prepare() -> None:
    """Have Typer answer the script, as its own option for the script would have it do."""
    from typer._completion_classes import completion_init

    completion_init()
