"""Figure 5, growth: what a million CVMs and years of stops on record do to accept and drain.

`python -m bench.growth` makes two databases in one PostgreSQL, one small and one large, and takes
the same stops through both, in turns: accepted 50 at a time, claimed and settled one after the
other with a made-up result, without a host or a broker. `--rows` is how many stops are on record in
the large one.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.databases import Database, make_database
from bench.figure import Figure, Value, median_of, ratio_of
from bench.ground import SERVER_SETTINGS, cvm_id
from bench.loading import Rows, load
from bench.turn_cost import DOWN
from shared.broker import Broker, make_celery
from shared.database import driver_transaction
from shared.models.batches import MAX_BATCH, BatchRequest
from shared.models.turns import Refusal
from shared.services.batch_stop import accept_batch
from shared.services.stops import claim_stop, settle_stop
from shared.telemetry import configure_logging
from tests.support.postgresql import running_postgresql
from workers.dispatcher import run_round


if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.models.turns import DueStop

CAP = 1_000
"""Of every host, so that all that is due may be sent."""

SMALL = Rows(cvms=1_000, cap=CAP)
LARGE_CVMS = 1_000_000
LARGE_HOSTS = 1_000
FINISHED = 5_000_000
"""Stops on record in the large one, each with an attempt."""

WORKSPACES = 100
BATCHES = SMALL.cvms // MAX_BATCH
"""Batches that the small one has CVMs for; each round takes another."""

WARM_UP = 3
"""Rounds before those that count: caches fill, statements are prepared, plans are kept."""

ROUNDS = 25
DISPATCHES = 15
GROWTH = 1.2
"""Most that growth may cost."""

ROUND_LIMIT = 100.0
"""Most milliseconds of a dispatcher's round, which comes once a second: a tenth of one core.

Not held to `GROWTH`: a round visits every host, of which there are a thousand times as many.
"""

WAL = {"max_wal_size": "8GB"}
"""Of PostgreSQL, on top of the usual: loading is not what is measured."""


class SilentBroker(Broker):
    """Takes everything and sends nothing, so that only the database is measured."""

    def count_waiting(self) -> int:
        """Say that nothing waits."""
        return 0

    def send_stops(self, stops: Sequence[DueStop]) -> None:
        """Send nothing."""


def accept(side: Database, batch: int) -> tuple[DueStop, ...]:
    """Accept the stops of the CVMs of a batch's number; evenly spread among all that there are."""
    first = batch * MAX_BATCH
    apart = side.content.cvms // SMALL.cvms
    ids = tuple(cvm_id(number * apart) for number in range(first, first + MAX_BATCH))
    request = BatchRequest(cvm_ids=ids, request_id="bench")
    with driver_transaction(side.engine) as connection:
        answer = accept_batch(connection, side.caller, request, side.settings)
    if answer.stopped != MAX_BATCH:
        sys.exit(f"only {answer.stopped} of {MAX_BATCH} were accepted")
    return answer.to_send


def drain(side: Database, stops: Sequence[DueStop]) -> None:
    """Claim and settle each as a worker does."""
    for stop in stops:
        with driver_transaction(side.engine) as connection:
            claimed = claim_stop(
                connection, stop.stop_task_id, worker="bench", settings=side.settings
            )
        if isinstance(claimed, Refusal):
            sys.exit(f"a claim was refused: {claimed}")
        with driver_transaction(side.engine) as connection:
            settle_stop(connection, claimed.claim, DOWN, settings=side.settings)


def dispatch(side: Database, broker: Broker, *, wanted: int) -> None:
    """Run a dispatcher's round that is to send so many."""
    done = run_round(side.engine, broker, side.settings)
    if done.sent != wanted:
        sys.exit(f"{done.sent} were sent where {wanted} were due")


def compare(sides: Sequence[Database], *, rounds: int, dispatches: int) -> None:
    """Take every step on both sides in turns; the sides keep what it took."""
    for number in range(WARM_UP + rounds):
        for side in sides:
            with side.step("accept of 50"):
                stops = accept(side, number % BATCHES)
            with side.step("drain of 50"):
                drain(side, stops)
    broker = SilentBroker(make_celery(sides[0].settings))
    for _ in range(WARM_UP + dispatches):
        for side in sides:
            with side.step("round, idle"):
                dispatch(side, broker, wanted=0)
    for side in sides:
        for batch in range(BATCHES):
            accept(side, batch)
    for _ in range(WARM_UP + dispatches):
        for side in sides:
            side.execute("UPDATE stop_tasks SET sent_at = NULL WHERE state = 'scheduled'")
            with side.step("round, 1,000 due"):
                dispatch(side, broker, wanted=SMALL.cvms)


def values_of(small: Database, large: Database) -> list[Value]:
    """Set the steps of both sides beside each other."""
    values = []
    for step in small.wall:
        is_round = step.startswith("round")
        for kind in ("wall", "cpu"):
            name = f"{step}, {kind.replace('cpu', 'CPU')}"
            ours, theirs = (getattr(side, kind)[step][WARM_UP:] for side in (large, small))
            values += [
                median_of(f"{name}, small", theirs, "ms"),
                median_of(f"{name}, large", ours, "ms", at_most=ROUND_LIMIT if is_round else None),
                ratio_of(
                    f"{name}, large / small", ours, theirs, at_most=None if is_round else GROWTH
                ),
            ]
    return values


def measure(*, small: bool = False, rows: int = FINISHED) -> Figure:
    """Measure figure 5.

    Parameters
    ----------
    small
        A hundredth of the rows and a few rounds: to see that it works.
    rows
        Stops on record in the large database.
    """
    less = 100 if small else 1
    large = Rows(
        cvms=LARGE_CVMS // less,
        hosts=LARGE_HOSTS,
        workspaces=WORKSPACES,
        finished=rows // less,
        cap=CAP,
    )
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = SERVER_SETTINGS | WAL
        server = stack.enter_context(running_postgresql(directory, settings=settings))
        sides = [
            make_database(server, name, content)
            for name, content in (("small", SMALL), ("large", large))
        ]
        for side in sides:
            stack.callback(side.engine.dispose)
        configure_logging(sides[0].settings.model_copy(update={"log_level": "WARNING"}))
        began = time.monotonic()
        for side in sides:
            load(side.url, side.content, side.caller)
        loaded = time.monotonic() - began
        compare(sides, rounds=2 if small else ROUNDS, dispatches=2 if small else DISPATCHES)
        return Figure(
            number=5,
            title="Growth",
            how=(
                f"small: {SMALL.cvms:,} CVMs on 1 host, no stop on record;"
                f" large: {large.cvms:,} CVMs on {large.hosts:,} hosts, {large.finished:,} stops"
                f" on record with an attempt each (loaded in {loaded:.0f} s)."
                " In one PostgreSQL, in turns. Without a host or a broker. CPU: of the thread that"
                " asks and of PostgreSQL's backend for it"
            ),
            values=values_of(*sides),
        )


def main(
    *,
    small: Annotated[bool, typer.Option("--small", help="Only see that it works.")] = False,
    rows: Annotated[int, typer.Option(min=0, help="Stops on record.")] = FINISHED,
) -> None:
    """Measure, and print a line for each value."""
    measure(small=small, rows=rows).show()


if __name__ == "__main__":
    typer.run(main)
