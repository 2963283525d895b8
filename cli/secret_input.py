"""Secrets come from environment variables, files or standard input.

Never from the command line itself: everybody on the machine can read that, and shells keep it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer
from pydantic import SecretStr


STDIN = "-"
"""Name of a file that means standard input."""

MAX_BYTES = 1_000_000
"""Larger than any bundle of certificates; a file past it is the wrong file."""


def secret_from(option: str, *, variable: str | None, file: str | None) -> SecretStr | None:
    """Read a secret from wherever the command line says; None when it says nothing.

    A line end after it, as editors and `echo` leave one, is taken off.

    Parameters
    ----------
    option
        What both options begin with, such as `--token`; for messages.
    variable
        Value of `--token-env`: the name of an environment variable.
    file
        Value of `--token-file`: a path, or `-`.

    Raises
    ------
    typer.BadParameter
        Both were given, the secret is empty, or it cannot be read.
    """
    if variable is not None and file is not None:
        msg = f"give {option}-env or {option}-file, not both"
        raise typer.BadParameter(msg)
    if variable is not None:
        value = os.environ.get(variable, "")
        if not value:
            msg = f"{option}-env: the environment variable {variable!r} is not set, or is empty"
            raise typer.BadParameter(msg)
        return SecretStr(value)
    if file is None:
        return None
    return SecretStr(text_from(f"{option}-file", file).rstrip("\r\n"))


def text_from(option: str, file: str) -> str:
    """Read a text file, or standard input.

    Raises
    ------
    typer.BadParameter
        It cannot be read, is empty, is far too large or is no text.
    """
    try:
        if file == STDIN:
            content = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(file).open("rb") as opened:
                content = opened.read(MAX_BYTES + 1)
        text = content.decode()
    except OSError as error:
        msg = f"{option}: {file!r} cannot be read: {error.strerror}"
        raise typer.BadParameter(msg) from None
    except ValueError:
        msg = f"{option}: {file!r} is not a text in UTF-8"
        raise typer.BadParameter(msg) from None
    if len(content) > MAX_BYTES or not text.strip():
        msg = f"{option}: {file!r} is {'too large' if text.strip() else 'empty'}"
        raise typer.BadParameter(msg)
    return text
