"""A file system of its own for a server's data, which can be filled up and emptied again."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self


ZEROS = bytes(65_536)
"""What the disk is filled with."""


class SmallDisk:
    """A directory; where this machine lets us mount a file system, one of a limited size.

    Parameters
    ----------
    path
        It is made.
    megabytes
        How much fits in.
    """

    def __init__(self, path: Path, *, megabytes: int) -> None:
        self.path = path
        self.is_small = False
        self._megabytes = megabytes

    def __enter__(self) -> Self:
        self.path.mkdir()
        self.is_small = _mount(self.path, self._megabytes)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.is_small:
            subprocess.run(["/bin/umount", "--lazy", self.path], check=True)

    def fill(self) -> None:
        """Leave no room at all."""
        assert self.is_small, "the machine's own disk is never filled"
        with self._ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(ZEROS)

    def empty(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"


def may_mount(directory: Path) -> bool:
    """Whether this machine lets us mount a file system (root outside of most containers)."""
    directory.mkdir()
    if not _mount(directory, 1):
        return False
    subprocess.run(["/bin/umount", directory], check=True)
    return True


def _mount(path: Path, megabytes: int) -> bool:
    command = ["/bin/mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "cvmstop-faults", str(path)]
    return not subprocess.run(command, check=False, capture_output=True).returncode
