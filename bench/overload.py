"""Measures what more clients than the API can serve do to it.

`python -m bench.overload` starts a whole stack and ten simulated hosts, lets 50 clients post
batches of up to 50 CVMs for a minute, as fast as they can and whatever the answers say, and waits
until no stop is open. It prints the answers by status, how long they took, the memory of API,
worker and dispatcher, the most stops that were open, and how long they took to drain. Exit status 1
when an answer was a 5xx or none, when a 429 had no `Retry-After`, or when stops stay open.

Each client has a key of its own; `--keys 1` gives all of them the same. What
`CVMSTOP_RATE_LIMIT` and other settings of the caller say holds for the stack.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, defaultdict
from statistics import quantiles
from typing import TYPE_CHECKING, Annotated

import psutil
import psycopg
import typer

from bench.hammering import NO_ANSWER, Answer, Client, hammer_all
from bench.machines import WORKSPACE, Yard, running_yard
from shared.models.states import OPEN_STATES


if TYPE_CHECKING:
    from collections.abc import Sequence

HOSTS = 10
WATCHED = ("api", "worker", "dispatcher")
"""Processes whose memory is measured."""

MIB = 2**20


class Watch:
    """Looks at a stack from outside: its processes' memory, and the stops that are open."""

    def __init__(self, yard: Yard) -> None:
        pids = json.loads(yard.stack_file.read_text())["processes"]
        self._processes = {name: psutil.Process(pids[name]) for name in WATCHED}
        self._database = psycopg.connect(yard.environment["CVMSTOP_DATABASE_URL"], autocommit=True)
        self.memory: dict[str, list[int]] = defaultdict(list)
        self.most_open = 0

    def look(self) -> int:
        """Note the memory, and count the open stops."""
        for name, process in self._processes.items():
            self.memory[name].append(process.memory_info().rss)
        counted = self._database.execute(
            "SELECT count(*) FROM stop_tasks WHERE state = ANY(%s)", [list(OPEN_STATES)]
        ).fetchone()
        is_open = int(counted[0]) if counted else 0
        self.most_open = max(self.most_open, is_open)
        return is_open

    def ends(self) -> dict[str, int]:
        """Count the stops by state."""
        return dict(
            self._database.execute("SELECT state, count(*) FROM stop_tasks GROUP BY 1").fetchall()
        )

    def wait_until_drained(self, patience: float) -> float | None:
        """Wait until no stop is open; gives the seconds that took, None when it takes too long."""
        began = time.monotonic()
        while self.look():
            if time.monotonic() - began > patience:
                return None
            time.sleep(0.5)
        return time.monotonic() - began


def make_keys(yard: Yard, count: int) -> list[str]:
    """Make API keys of one user."""
    yard.cvmstop("users", "create", "bench", "--workspace", WORKSPACE)
    options = ("--user", "bench", "--workspace", WORKSPACE)
    return [yard.cvmstop("keys", "create", *options) for _ in range(count)]


def main(
    *,
    clients: Annotated[int, typer.Option(min=1, help="Clients that post at once.")] = 50,
    keys: Annotated[
        int | None, typer.Option(min=1, help="API keys over all clients. [default: one each]")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long they post.")] = 60,
    largest: Annotated[int, typer.Option(min=1, max=50, help="Most ids in a batch.")] = 50,
    cvms: Annotated[int, typer.Option(min=HOSTS, help="CVMs over all hosts.")] = 3_000,
    patience: Annotated[float, typer.Option(help="Longest wait for the stops to drain.")] = 600,
) -> None:
    """Measure, and print a line for each figure."""
    with running_yard([cvms // HOSTS] * HOSTS) as yard:
        made = make_keys(yard, keys or clients)
        url = yard.environment["CVMSTOP_API_URL"]
        every = tuple(cvm for machine in yard.machines for cvm in machine.cvms)
        crowd = [
            Client(number, url, made[number % len(made)], every, largest, seconds)
            for number in range(clients)
        ]
        watch = Watch(yard)
        watch.look()
        answers = hammer_all(crowd, watch.look)
        drained = watch.wait_until_drained(patience)
        typer.echo(f"{clients} clients, {len(made)} keys, {seconds:g} s, {len(every)} CVMs")
        good = report_answers(answers, seconds)
        report_stack(watch, drained)
    sys.exit(0 if good and drained is not None else 1)


def report_answers(answers: Sequence[Answer], seconds: float) -> bool:
    """Print what the clients got; tells whether it is what they should get."""
    statuses = Counter(answer.status for answer in answers)
    for status, count in sorted(statuses.items()):
        took = sorted(answer.seconds for answer in answers if answer.status == status)
        at = quantiles(took, n=100, method="inclusive") if len(took) > 1 else took * 99
        typer.echo(
            f"answers {status or 'none'}: {count:7d}  {count / seconds:6.1f}/s   seconds: "
            f"p50 {at[49]:.3f}  p95 {at[94]:.3f}  p99 {at[98]:.3f}  max {took[-1]:.3f}"
        )
    refused = [answer.retry_after for answer in answers if answer.status == 429]
    told = [int(wait) for wait in refused if wait and wait.isdecimal() and int(wait) >= 1]
    if refused:
        typer.echo(
            f"429 with Retry-After: {len(told)} of {len(refused)}, up to {max(told, default=0)} s"
        )
    broken = [status for status in statuses if status >= 500 or status == NO_ANSWER]
    return not broken and len(told) == len(refused)


def report_stack(watch: Watch, drained: float | None) -> None:
    """Print what it did to the stack."""
    for name, sizes in watch.memory.items():
        first, last, most = sizes[0] / MIB, sizes[-1] / MIB, max(sizes) / MIB
        typer.echo(f"{name:10} before {first:6.1f}  after {last:6.1f}  most {most:6.1f} MiB")
    typer.echo(f"stops open at once: {watch.most_open}")
    typer.echo(f"drained after: {'never' if drained is None else f'{drained:.1f} s'}")
    typer.echo(f"stops by state: {watch.ends()}")


if __name__ == "__main__":
    typer.run(main)
