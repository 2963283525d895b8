"""`cvmstop settings`: every setting, told from the code that reads it."""

from __future__ import annotations

import inspect

import typer


def settings() -> None:
    """List every setting: its environment variable, its default, and what it means.

    Values are not shown: some are secrets.
    """
    from pydantic_core import PydanticUndefined

    from cli.api_client import KEY_VARIABLE, URL_VARIABLE
    from shared.settings import ENV_PREFIX, Settings

    typer.echo("Durations, intervals and waits are seconds.\n")
    for name, field in Settings.model_fields.items():
        shown = f"{field.default:.12g}" if isinstance(field.default, float) else str(field.default)
        default = "required" if field.default is PydanticUndefined else f"default {shown}"
        typer.echo(f"{ENV_PREFIX}{name.upper()}  ({default})")
        for line in inspect.cleandoc(field.description or "").splitlines():
            typer.echo(f"    {line}".rstrip())
    typer.echo(
        f"\nOnly for commands that ask the API, such as `cvmstop failures`:\n"
        f"{URL_VARIABLE}  (required)\n"
        f"    Where the API is, such as http://127.0.0.1:8000.\n"
        f"{KEY_VARIABLE}  (required)\n"
        f"    An API key, as `cvmstop keys create` shows it."
    )
