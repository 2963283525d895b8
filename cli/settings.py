"""`cvmstop settings`: every setting, told from the code that reads it."""

from __future__ import annotations

import inspect

import typer


def settings() -> None:
    """List every setting: its environment variable, its default, and what it means.

    Values are not shown: some are secrets.
    """
    from pydantic_core import PydanticUndefined

    from shared.settings import ENV_PREFIX, Settings

    for name, field in Settings.model_fields.items():
        default = "required" if field.default is PydanticUndefined else f"default {field.default}"
        typer.echo(f"{ENV_PREFIX}{name.upper()}  ({default})")
        for line in inspect.cleandoc(field.description or "").splitlines():
            typer.echo(f"    {line}".rstrip())
