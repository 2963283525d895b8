"""How the stops of the demo go on: a table that changes, or a few lines where none can."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from shared.models.states import StopState


if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

LINE_INTERVAL = 5.0
"""Seconds between two lines where a table cannot be drawn again and again."""

BAR_WIDTH = 30
"""Characters of a bar that is full."""


class Progress:
    """Shows counts by host and state, on standard output.

    Parameters
    ----------
    hosts
        Their names, in the order in which they are shown.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = hosts
        self._console = Console()
        # No thread of its own: `cli.stack.child` forks.
        self._live = Live(console=self._console, auto_refresh=False)
        self._next_line = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def update(self, tasks: Sequence[dict[str, Any]], seconds: float) -> None:
        """Show how things stand.

        Parameters
        ----------
        tasks
            Every stop task, as the API gives it.
        seconds
            Since the stops were asked for.
        """
        ended = sum(1 for task in tasks if task["finished_at"])
        if self._console.is_terminal:
            self._live.update(self._table(tasks, ended, seconds), refresh=True)
        elif seconds >= self._next_line or ended == len(tasks):
            self._next_line = seconds + LINE_INTERVAL
            counts = Counter(task["state"] for task in tasks)
            states = ", ".join(f"{counts[state]} {state}" for state in StopState if counts[state])
            self._console.print(f"{seconds:4.0f} s  {ended} of {len(tasks)} ended: {states}")

    def _table(self, tasks: Sequence[dict[str, Any]], ended: int, seconds: float) -> Table:
        table = Table(
            box=None,
            pad_edge=False,
            header_style="bold",
            title=f"{ended} of {len(tasks)} stops ended after {seconds:.0f} s",
            title_justify="left",
        )
        table.add_column("host")
        table.add_column("", min_width=BAR_WIDTH)
        for state in ("waiting", "in a turn", "succeeded", "failed"):
            table.add_column(state, justify="right")
        for host in self._hosts:
            counts = Counter(task["state"] for task in tasks if task["host"] == host)
            waiting = counts[StopState.SCHEDULED] + counts[StopState.CONFIRMING]
            good, bad = counts[StopState.SUCCEEDED], counts[StopState.FAILED]
            table.add_row(
                host,
                _bar(good, bad, counts.total()),
                *map(str, (waiting, counts[StopState.STOPPING], good, bad)),
            )
        return table


def _bar(good: int, bad: int, total: int) -> str:
    if not total:
        return ""
    green, red = good * BAR_WIDTH // total, bad * BAR_WIDTH // total
    rest = BAR_WIDTH - green - red
    return f"[green]{'━' * green}[/][red]{'━' * red}[/][dim]{'─' * rest}[/]"
