"""Takes each protection out, one at a time, and shows the test that goes red.

`make unprotected` copies the tracked files to a temporary directory, makes one change there, runs
the test, and prints what was seen: the rows of the table in `docs/faults.md`. Exit status 1 when a
test stays green without its protection.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tests.system.faults.protections import HERE, PROTECTIONS, Protection


ROOT = Path(__file__).parent.parent.parent.parent

DEADLINE = "25"
"""Seconds that stops get, so that a test that waits for what never happens is red soon."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """How a test ended without its protection."""

    is_red: bool
    last_words: str


def without(protection: Protection, tree: Path) -> Seen:
    """Take a protection out of a copy of the tree, run its test there, put it back."""
    # How many CVMs there are: a small cluster starts sooner.
    options = ["--stops=300"] if protection.test.startswith(HERE) else []
    before = {change.file: (tree / change.file).read_text() for change in protection.changes}
    try:
        for change in protection.changes:
            text = (tree / change.file).read_text()
            if text.count(change.old) != 1:
                sys.exit(f"{protection.name}: {change.old!r} is not in {change.file} once")
            (tree / change.file).write_text(text.replace(change.old, change.new))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "--tb=short", protection.test, *options],
            cwd=tree,
            env={
                **os.environ,
                "PYTHONPATH": str(tree),
                "PYTHONDONTWRITEBYTECODE": "1",  # files change within a second
                "CVMSTOP_FAULTS_STOP_DEADLINE": DEADLINE,
                "PYTEST_ADDOPTS": "-p no:randomly -p no:cacheprovider",
            },
            check=False,
            capture_output=True,
            text=True,
        )
    finally:
        for file, text in before.items():
            (tree / file).write_text(text)
    said = re.findall(r"^E +(\S.*)$", done.stdout, re.MULTILINE)
    return Seen(is_red=done.returncode == 1, last_words=said[0] if said else done.stdout[-500:])


def copy_of_the_tree(directory: Path) -> Path:
    """Copy what git tracks, as it is now."""
    tree = directory / "tree"
    listed = subprocess.run(
        ["git", "ls-files", "-z"],  # noqa: S607 - git, wherever it is
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    return tree


def main(
    only: Annotated[str, typer.Option(help="Those whose fault or name has this in it.")] = "",
) -> None:
    """Take out one protection after the other."""
    chosen = [each for each in PROTECTIONS if only in f"{each.fault}: {each.name}"]
    if not chosen:
        faults = "\n".join(sorted({each.fault for each in PROTECTIONS}))
        sys.exit(f"nothing is called {only!r}; there are:\n{faults}")
    green = 0
    with tempfile.TemporaryDirectory() as directory:
        tree = copy_of_the_tree(Path(directory))
        for protection in chosen:
            seen = without(protection, tree)
            green += not seen.is_red
            colour = "red" if seen.is_red else "GREEN"
            test = protection.test.rpartition("/")[2]
            typer.echo(f"{colour}  {protection.fault}: {protection.name}  ({test})")
            typer.echo(f"     {seen.last_words[:300]}")
    sys.exit(bool(green))


if __name__ == "__main__":
    typer.run(main)
