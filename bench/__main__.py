"""Measures every figure: `make bench`, or `python -m bench`.

Prints each with its goal, writes all of them to `bench/results/` and as a table into
`docs/performance.md`. `--small` is a quick look whether everything works; its times say nothing,
and it writes nothing.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import psutil
import typer

from bench import accept, drain, end_to_end, first_answer, growth, memory
from bench.fast_hosts import measured_ceiling
from bench.report import as_table, write_between_marks


if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.figure import Figure

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "performance.md"

FIGURES: dict[int, Callable[..., Figure]] = {
    1: accept.measure_accept,
    2: accept.measure_accept_loaded,
    3: drain.measure,
    4: end_to_end.measure,
    5: growth.measure,
    6: memory.measure,
    7: first_answer.measure,
}
"""By their numbers; each takes `small`."""


def machine() -> dict[str, Any]:
    """Say what this was measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _commit(),
    }


def _commit() -> str:
    """Say which version was measured, where git can tell."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    done = subprocess.run(
        [git, "rev-parse", "--short", "HEAD"], check=False, capture_output=True, text=True, cwd=ROOT
    )
    return done.stdout.strip() or "unknown"


def main(
    only: Annotated[
        list[int] | None, typer.Option(min=1, max=7, help="Figures to measure. [default: all]")
    ] = None,
    *,
    small: Annotated[bool, typer.Option("--small", help="See whether it works.")] = False,
) -> None:
    """Measure, print, and write down what all of it gave."""
    where = machine()
    typer.echo(", ".join(f"{name} {value}" for name, value in where.items()))
    ceiling = measured_ceiling()
    typer.echo(
        f"the hosts themselves: {ceiling.answers_per_second:.0f} answers/s at most,"
        f" {ceiling.cpu_milliseconds:.3f} ms of CPU each"
    )
    began = time.monotonic()
    figures = []
    for number in only or FIGURES:
        started = time.monotonic()
        figure = FIGURES[number](small=small)
        figure.show()
        typer.echo(f"  ({time.monotonic() - started:.0f} s)\n")
        figures.append(figure)
    typer.echo(f"\n{time.monotonic() - began:.0f} s in all")
    if small or only:
        return
    RESULTS.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    results = {
        "measured_at": now.isoformat(timespec="seconds"),
        "machine": where,
        "hosts": {
            "answers_per_second": round(ceiling.answers_per_second),
            "cpu_milliseconds": round(ceiling.cpu_milliseconds, 4),
        },
        "figures": [figure.as_json() for figure in figures],
    }
    file = RESULTS / f"{now:%Y-%m-%d}.json"
    file.write_text(json.dumps(results, indent=1) + "\n")
    write_between_marks(PAGE, as_table(results))
    typer.echo(f"written to {file.relative_to(ROOT)} and {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    typer.run(main)
