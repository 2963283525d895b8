"""Whether a member can tell an id of another workspace from one that there is not, by time (I6).

`python -m bench.id_timing` starts a stack and asks as the member of one workspace, in turns, for
something of the other one and for something that there is not, over one kept connection. The last
column is the probability that of two answers, one of each kind, the foreign one took longer, with
twice its standard error: at 0.5 time tells nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left, bisect_right
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
from pydantic import SecretStr
from sqlalchemy import select

from shared.database import transaction
from shared.engine import make_engine
from shared.settings import DatabaseSettings
from shared.tables import Cvm, Workspace


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROUNDS = 1_500
"""Pairs of requests for each line."""

WARM_UP = 50
"""Pairs that come before, and do not count."""

SIMULATED = 20
"""CVMs of the stack, over both workspaces."""

BATCH_STOP = "/api/v1/cvms/batch-stop"


@contextmanager
def stack() -> Iterator[dict[str, Any]]:
    """Run a stack without a rate limit; gives its `stack.json`."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "stack.json"
        options = ["--data-dir", directory, "--simulate", str(SIMULATED)]
        with subprocess.Popen(
            [sys.executable, "-m", "cli", "up", *options],
            env={**os.environ, "CVMSTOP_RATE_LIMIT": ""},
            stdout=subprocess.DEVNULL,
        ) as process:
            try:
                while not file.exists():
                    if process.poll() is not None:
                        sys.exit("the stack did not start")
                    time.sleep(0.05)
                yield json.loads(file.read_text())
            finally:
                process.terminate()


def foreign_ids(facts: dict[str, Any], member: httpx.Client) -> tuple[str, str, str]:
    """Let the admin stop a CVM of the other workspace: the ids of CVM, batch and stop task."""
    with httpx.Client(base_url=facts["api_url"], headers={"X-API-Key": facts["admin_key"]}) as root:
        ours = member.post(BATCH_STOP, json={"cvm_ids": []}).headers["x-batch-id"]
        workspace = root.get(f"/api/v1/batches/{ours}").json()["workspace"]
        settings = DatabaseSettings(database_url=SecretStr(facts["database_url"]))
        engine = make_engine(settings, application="bench")
        with transaction(engine) as session:
            cvm_id = session.scalars(
                select(Cvm.hash_id).join(Workspace).where(Workspace.name != workspace).limit(1)
            ).one()
        engine.dispose()
        batch_id = root.post(BATCH_STOP, json={"cvm_ids": [cvm_id]}).headers["x-batch-id"]
        (task,) = root.get("/api/v1/stop-tasks", params={"batch_id": batch_id}).json()["items"]
        return cvm_id, batch_id, task["id"]


def measure(
    ask: Callable[[str], httpx.Response], foreign: str, unknown: Callable[[], str], rounds: int
) -> tuple[list[float], list[float]]:
    """Ask for both in turns, first one then the other first; gives times in milliseconds."""
    taken: dict[bool, list[float]] = {True: [], False: []}
    for number in range(WARM_UP + rounds):
        for is_foreign in random.sample((True, False), k=2):
            asked_for = foreign if is_foreign else unknown()
            began = time.perf_counter()
            ask(asked_for)
            if number >= WARM_UP:
                taken[is_foreign].append((time.perf_counter() - began) * 1_000)
    return taken[True], taken[False]


def probability_slower(these: Sequence[float], those: Sequence[float]) -> float:
    """Give the probability that one of these is larger than one of those; ties count half."""
    ordered = sorted(those)
    below = sum(bisect_left(ordered, value) + bisect_right(ordered, value) for value in these)
    return below / (2 * len(these) * len(those))


def spread(values: Sequence[float]) -> float:
    """Give the distance between the quartiles."""
    first, _, third = statistics.quantiles(values, n=4)
    return third - first


def main() -> None:
    """Measure each way of asking, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="pairs of requests for each")
    rounds = parser.parse_args().rounds
    error = 2 * ((2 * rounds + 1) / (12 * rounds * rounds)) ** 0.5
    with (
        stack() as facts,
        httpx.Client(
            base_url=facts["api_url"], headers={"X-API-Key": facts["user_key"]}, timeout=30
        ) as member,
    ):
        cvm_id, batch_id, task_id = foreign_ids(facts, member)
        # As long as a real one, and as regular.
        ways: dict[str, tuple[Callable[[str], httpx.Response], str, Callable[[], str]]] = {
            "POST batch-stop?dry_run=true": (
                lambda cvm: member.post(
                    BATCH_STOP, params={"dry_run": "true"}, json={"cvm_ids": [cvm]}
                ),
                cvm_id,
                lambda: _like(cvm_id),
            ),
            "POST batch-stop": (
                lambda cvm: member.post(BATCH_STOP, json={"cvm_ids": [cvm]}),
                cvm_id,
                lambda: _like(cvm_id),
            ),
            "GET batches/{id}": (
                lambda batch: member.get(f"/api/v1/batches/{batch}"),
                batch_id,
                lambda: str(uuid4()),
            ),
            "GET stop-tasks/{id}": (
                lambda task: member.get(f"/api/v1/stop-tasks/{task}"),
                task_id,
                lambda: str(uuid4()),
            ),
        }
        _tell(
            f"{'':30}{'foreign':>17}{'unknown':>17}{'difference':>12}{'P(foreign slower)':>20}",
            f"{'':30}{'median (spread)':>17}{'median (spread)':>17}{'of medians':>12}",
        )
        for name, (ask, foreign, unknown) in ways.items():
            times = measure(ask, foreign, unknown, rounds)
            medians = [statistics.median(values) for values in times]
            shown = [
                f"{middle:.2f} ({spread(values):.2f})"
                for middle, values in zip(medians, times, strict=True)
            ]
            _tell(
                f"{name:30}{shown[0]:>17}{shown[1]:>17}{medians[0] - medians[1]:>+12.3f}"
                f"{probability_slower(*times):>12.3f} ± {error:.3f}"
            )
        _tell(f"milliseconds; {rounds:,} requests of each kind in every line")


def _like(cvm_id: str) -> str:
    """Make up an id of the same form."""
    prefix, _, rest = cvm_id.partition("_")
    return f"{prefix}_{uuid4().hex[: len(rest)]}"


def _tell(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)  # noqa: T201 - a command's output


if __name__ == "__main__":
    main()
