"""Files that hold secrets: only their owner may read them, and they change whole or not at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Write a file with mode 0600, or replace one; who reads it meanwhile sees the old or the new.

    Parameters
    ----------
    path
        Its directory must exist.
    text
        The whole of it.
    """
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)
