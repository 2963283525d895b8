"""How a person calls this program again: for lines that are there to be pasted into a shell."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def program(*, shortened: bool = True) -> str:
    """Give the program as it was called, for a shell in the current directory.

    Its bare name where PATH leads to it; otherwise a path, relative below the current directory.

    Parameters
    ----------
    shortened
        False for a shell that may be elsewhere and have another PATH: always an absolute path.
    """
    called = Path(sys.argv[0]).absolute()
    write = shell_path if shortened else _absolute
    if called.name == "__main__.py":  # python -m cli
        return f"{write(Path(sys.executable))} -m {called.parent.name}"
    if shortened and shutil.which(called.name) == str(called):
        return shlex.quote(called.name)
    return write(called)


def _absolute(path: Path) -> str:
    return shlex.quote(str(path))


def shell_path(path: Path) -> str:
    """Write an absolute path for a shell: quoted, and relative below the current directory."""
    try:
        shorter = str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):  # not below it, or it is gone
        return shlex.quote(str(path))
    # A name without a slash would be looked for on PATH.
    return shlex.quote(shorter if "/" in shorter else f"./{shorter}")
